//! The folder's own files: its version, its lock, and how the last session ended.

use std::{
    fs::{self, File},
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

use super::layout::{Layout, TMP_FOLDERS};

/// The version of the layout, in the words of the file.
const VERSION: &str = "buildbuildbuild store 1\n";

/// The earliest time of change that files get: 2000-01-01 in seconds since 1970. Some tools dislike
/// earlier years, and what is staged shows it to actions.
const MTIME_BASE: i64 = 946_684_800;

/// How many different times of change there are, as a power of two: half a year of seconds.
const MTIME_BITS: u32 = 24;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another version of this program made it, or another program.
    #[error(
        "folder {} holds {found}, but this version knows {:?} alone: give another folder, or delete this one if all in it may go",
        .folder.display(), VERSION.trim_end()
    )]
    Version {
        /// The folder.
        folder: PathBuf,
        /// What stands in its version file, or that there is none.
        found: String,
    },
    /// Another process uses it.
    #[error("folder {} is in use by another node: give each node a folder of its own", .0.display())]
    InUse(PathBuf),
    /// It cannot be made or read.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A folder that this process alone uses now.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) layout: Layout,
    pub(super) lock: File,
    /// The time of change of files that need not be hashed again.
    pub(super) mtime: i64,
    /// Whether the last session ended by [`mark_clean`] with its whole index written down.
    pub(super) was_clean: bool,
}

impl Folder {
    /// Opens or makes the folder, locks it, and moves leftovers of the last session aside.
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        let at = |what, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| OpenError::Io { what, path, source }
        };
        fs::create_dir_all(dir).map_err(at("make", dir))?;
        let dir = &dir.canonicalize().map_err(at("find", dir))?;
        let layout = Layout::new(dir.clone());
        check_version(&layout, false)?;
        let path = layout.lock();
        let lock = File::create(&path).map_err(at("make", &path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse(dir.clone())),
            Err(error) => return Err(at("lock", &path)(error.into())),
        }
        check_version(&layout, true)?;
        for folder in [layout.tmp(), layout.scratch()] {
            set_aside(&layout, &folder).map_err(at("empty", &folder))?;
        }
        for number in 0..TMP_FOLDERS {
            let path = layout.tmp_folder(number);
            fs::create_dir(&path).map_err(at("make", &path))?;
        }
        let path = layout.state();
        let last = State::read(&path);
        let boot = boot_id();
        let mtime = match &last {
            Some(last) if last.clean || boot.is_some() && last.boot == boot => last.mtime,
            _ => new_mtime(),
        };
        let was_clean = last.is_some_and(|last| last.clean && last.whole && last.mtime == mtime);
        let state = State { mtime, boot, clean: false, whole: false };
        state.write(&path).map_err(at("write", &path))?;
        Ok(Self { layout, lock, mtime, was_clean })
    }
}

/// Notes that all files are written out. `whole` says whether the snapshot holds all that there is.
pub(super) fn mark_clean(layout: &Layout, mtime: i64, whole: bool) -> io::Result<()> {
    rustix::fs::syncfs(File::open(layout.root())?)?;
    State { mtime, boot: boot_id(), clean: true, whole }.write(&layout.state())
}

/// Sees to it that the folder is ours and of our version; writes the version into an empty one.
fn check_version(layout: &Layout, may_write: bool) -> Result<(), OpenError> {
    let path = layout.version();
    let other = |found: String| Err(OpenError::Version { folder: layout.root().to_owned(), found });
    let io = |what| {
        let path = path.clone();
        move |source| OpenError::Io { what, path, source }
    };
    match fs::read(&path) {
        Ok(found) if found == VERSION.as_bytes() => Ok(()),
        Ok(found) => {
            let found = String::from_utf8_lossy(&found[..found.len().min(100)]);
            other(format!("version {:?}", found.trim_end()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut names = fs::read_dir(layout.root()).map_err(io("list the folder of"))?;
            // The last is what a start leaves that is killed, or meets a full disk, as it writes the version.
            let ours = ["lost+found", "LOCK", "VERSION.new"];
            let is_ours = |name: &std::ffi::OsStr| ours.iter().any(|ours| name == *ours);
            match names.find_map(|entry| entry.ok().filter(|entry| !is_ours(&entry.file_name()))) {
                Some(entry) => other(format!("{:?} and no version file", entry.file_name())),
                None if may_write => write_durably(&path, VERSION.as_bytes()).map_err(io("write")),
                None => Ok(()),
            }
        }
        Err(error) => Err(io("read")(error)),
    }
}

/// How the last session stood.
#[derive(Debug, PartialEq, Eq)]
struct State {
    mtime: i64,
    boot: Option<String>,
    clean: bool,
    whole: bool,
}

impl State {
    /// What the file says; nothing if it is not there or damaged, since then all must be checked anyway.
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut lines = text.lines();
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let mtime = value("mtime")?.parse().ok()?;
        let boot = Some(value("boot")?.to_owned()).filter(|boot| !boot.is_empty());
        let clean = value("clean")?.parse().ok()?;
        let whole = value("whole")?.parse().ok()?;
        Some(Self { mtime, boot, clean, whole })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let Self { mtime, boot, clean, whole } = self;
        let boot = boot.as_deref().unwrap_or_default();
        let text = format!("mtime {mtime}\nboot {boot}\nclean {clean}\nwhole {whole}\n");
        write_durably(path, text.as_bytes())
    }
}

/// Replaces a small file so that it is either the old or the new one, whatever happens.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Moves a folder into the trash, which is emptied behind, and makes a new one in its place.
fn set_aside(layout: &Layout, folder: &Path) -> io::Result<()> {
    let trash = layout.trash();
    fs::create_dir_all(&trash)?;
    if folder.exists() {
        let number = RandomState::new().hash_one(folder);
        fs::rename(folder, trash.join(format!("{number:016x}")))?;
    }
    fs::create_dir(folder)
}

/// Empties the trash. What cannot be removed keeps nothing else there.
pub(super) fn empty_trash(layout: &Layout) -> io::Result<()> {
    let mut failed = None;
    for entry in fs::read_dir(layout.trash())? {
        failed = remove(&entry?.path()).err().or(failed);
    }
    failed.map_or(Ok(()), Err)
}

/// Removes a folder. What actions left there may have forbidden its own removal.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            permit(folder)?;
            fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

fn permit(folder: &Path) -> io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

/// What differs from boot to boot of the machine.
fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// A time of change that, but for one chance in 16 million, no file in the folder has.
fn new_mtime() -> i64 {
    MTIME_BASE + (RandomState::new().hash_one(()) >> (64 - MTIME_BITS)) as i64
}
