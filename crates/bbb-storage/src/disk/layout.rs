//! Where things lie in the folder. This is the only place that makes a path.
//!
//! ```text
//! VERSION  STATE  LOCK  snapshot
//! cas/<instance>/<function>/<xx>/<hash>-<size>      blobs, mode 0444
//! cas/<instance>/<function>/<xx>/<hash>-<size>.x    copies that may be executed, mode 0555
//! ac/<instance>/<function>/<xx>/<hash>-<size>       results, by the digest of the action
//! ac/<instance>%log/<function>/<xx>/<hash>-<size>   pages of logs, by a digest that follows from their names
//! ac/<instance>%asset/<function>/<xx>/<hash>-<size> records of remote assets, by a digest that follows from what they are called
//! tmp/  trash/  scratch/  queue/
//! ```

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bbb_digest::{Digest, Function};

/// What is told apart under one digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    /// The result of an action.
    Result = 0,
    /// A blob.
    Blob = 1,
    /// A copy of a blob that may be executed.
    Executable = 2,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Result, Self::Blob, Self::Executable];

    const fn folder(self) -> &'static str {
        match self {
            Self::Result => "ac",
            Self::Blob | Self::Executable => "cas",
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Result | Self::Blob => "",
            Self::Executable => ".x",
        }
    }
}

/// The folders that hold entries, results first.
pub(super) const ENTRY_FOLDERS: [&str; 2] = ["ac", "cas"];

/// What stands before the bytes of an instance's name that file names had better not hold.
pub(super) const ESCAPE: char = '%';

/// How many folders temporary files lie in: the kernel lets one thread at a time change a folder.
pub(super) const TMP_FOLDERS: u64 = 16;

/// The folder and the way from it to everything.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    temporary: AtomicU64,
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, temporary: AtomicU64::new(0) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn version(&self) -> PathBuf {
        self.root.join("VERSION")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join("STATE")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub(super) fn snapshot(&self) -> PathBuf {
        self.root.join("snapshot")
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    pub(super) fn queue(&self) -> PathBuf {
        self.root.join("queue")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// A path for a temporary file that nobody else was given since this process opened the folder.
    pub(super) fn temporary(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.tmp_folder(number % TMP_FOLDERS).join(number.to_string())
    }

    /// One of the folders of temporary files.
    pub(super) fn tmp_folder(&self, number: u64) -> PathBuf {
        self.root.join("tmp").join(number.to_string())
    }

    /// Where an entry lies. `instance` is a segment that [`segment`](crate::segment) made.
    pub(super) fn entry(&self, instance: &str, kind: Kind, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        let hex = hex.as_str();
        let root = self.root.as_os_str();
        let mut path = String::with_capacity(64 + instance.len() + hex.len());
        let function = digest.function();
        let (folder, suffix) = (kind.folder(), kind.suffix());
        // Writing to a string cannot fail.
        let _ = write!(
            path,
            "{folder}/{instance}/{function}/{}/{hex}-{}",
            &hex[..2],
            digest.size_bytes()
        );
        path.push_str(suffix);
        let mut whole = PathBuf::with_capacity(root.len() + 1 + path.len());
        whole.push(root);
        whole.push(path);
        whole
    }
}

/// The digest and kind that a file name in the folder of a function stands for.
pub(super) fn parse_name(folder: &str, function: Function, name: &str) -> Option<(Kind, Digest)> {
    let (kind, stem) = match (folder, name.strip_suffix(Kind::Executable.suffix())) {
        ("cas", Some(stem)) => (Kind::Executable, stem),
        ("cas", None) => (Kind::Blob, name),
        ("ac", None) => (Kind::Result, name),
        _ => return None,
    };
    let (hex, size) = stem.split_once('-')?;
    // Only the one way in which a size is written is ours: no sign, no leading zeros.
    let size_bytes: i64 = size.parse().ok().filter(|parsed: &i64| parsed.to_string() == size)?;
    Some((kind, Digest::parse(function, hex, size_bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_as_what_it_was_made_of() {
        let layout = Layout::new("/store".into());
        for function in Function::ALL {
            for kind in Kind::ALL {
                let digest = Digest::of(function, b"hello");
                let path = layout.entry("%", kind, digest);
                let folder = path.strip_prefix("/store").unwrap().iter().next().unwrap();
                let name = path.file_name().unwrap().to_str().unwrap();
                let parsed = parse_name(folder.to_str().unwrap(), function, name);
                assert_eq!(parsed, Some((kind, digest)), "{}", path.display());
            }
        }
    }

    #[test]
    fn foreign_names_are_nobody() {
        let hex = Digest::of(Function::Sha256, b"x").hex();
        for name in [
            "",
            "x",
            &format!("{hex}"),
            &format!("{hex}-01"),
            &format!("{hex}-+1"),
            &format!("{hex}--1"),
            &format!("{hex}-1.y"),
        ] {
            assert_eq!(parse_name("cas", Function::Sha256, name), None, "{name}");
        }
        assert_eq!(parse_name("ac", Function::Sha256, &format!("{hex}-1.x")), None);
    }
}
