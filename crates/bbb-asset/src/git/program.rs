//! The program `git`, with nothing of this machine's settings and in a folder of its own.
//!
//! It connects to no address but those that it is given, follows no redirect, asks nobody for a password, runs no hook or filter and
//! fetches no submodule. What it is told stands in its environment, not among its arguments, which all can read.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    leash::{Bounds, Held, Leash},
    trust::write_trusted,
};

/// Settings that do not depend on what is fetched.
const SETTINGS: [(&str, &str); 18] = [
    ("advice.detachedHead", "false"),
    ("core.askPass", "/bin/false"),
    ("core.bigFileThreshold", "8m"),
    ("core.hooksPath", "/dev/null"),
    ("core.packedGitWindowSize", "16m"),
    ("core.packedGitLimit", "256m"),
    ("credential.helper", ""),
    ("fetch.recurseSubmodules", "false"),
    // One pack, whose size is bounded, and not many objects.
    ("fetch.unpackLimit", "1"),
    ("gc.auto", "0"),
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.proxyAuthMethod", "basic"),
    ("maintenance.auto", "false"),
    ("pack.threads", "2"),
    ("protocol.allow", "never"),
    ("tar.umask", "022"),
    ("transfer.bundleURI", "false"),
];

/// Takes back what files of the repository say of how they are to be packed: its content is what was committed.
const ATTRIBUTES: &str =
    "* -export-ignore -export-subst -text -crlf -eol -ident -filter -working-tree-encoding\n";

/// The longest that a server may say nothing.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// What it says then, in the words of libcurl.
pub(super) const TOO_SLOW: &str = "Operation too slow";

/// What is passed on of this process's environment.
const PASSED_ON: [&str; 1] = ["PATH"];

/// How much of what it says is told, in bytes.
const MAX_TOLD_BYTES: u64 = 1 << 10;

/// How much address space each process may have.
const MEMORY_BYTES: u64 = 2 << 30;

/// A repository that is empty at first, and gone when this is.
pub(super) struct Git {
    folder: PathBuf,
    object_format: &'static str,
    settings: Vec<(String, String)>,
    leash: Leash,
    bounds: Bounds,
}

/// Why the program did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum GitError {
    /// It is not there.
    #[error("there is no program git on this node")]
    Absent,
    /// It says that what is asked for is not there.
    #[error("the repository does not have it: {0}")]
    NotThere(String),
    /// It takes more than this many bytes.
    #[error("the repository has more than the {0} bytes that are taken")]
    TooLarge(u64),
    /// It has failed, for what it says.
    #[error("git {0} fails: {1}")]
    Failed(&'static str, String),
    /// A fault of this machine.
    #[error("cannot run git")]
    Broken(#[from] io::Error),
}

impl Git {
    /// A repository in `folder`, which is made. `settings` come after all others; no file may have more than `limit_bytes`.
    pub(super) fn init(
        folder: PathBuf,
        object_format: &'static str,
        mut settings: Vec<(String, String)>,
        limit_bytes: u64,
        leash: Leash,
    ) -> Result<Self, GitError> {
        fs::create_dir(&folder)?;
        let trusted = folder.join("trusted");
        let bounds = Bounds { file_bytes: limit_bytes, memory_bytes: MEMORY_BYTES };
        if write_trusted(&trusted)? {
            settings.push(("http.sslCAInfo".to_owned(), trusted.to_string_lossy().into_owned()));
        }
        let git = Self { folder, object_format, settings, leash, bounds };
        let format = format!("--object-format={object_format}");
        git.run("init", &["--quiet", "--bare", "--template=", &format, "."])?;
        fs::create_dir_all(git.folder.join("info"))?;
        fs::write(git.folder.join("info/attributes"), ATTRIBUTES)?;
        Ok(git)
    }

    /// Another one like it, in a folder within its own.
    pub(super) fn beside(&self, name: &str) -> Result<Self, GitError> {
        let Self { folder, object_format, settings, leash, bounds } = self;
        let (folder, settings) = (folder.join(name), settings.clone());
        Self::init(folder, object_format, settings, bounds.file_bytes, leash.clone())
    }

    /// Runs a command to its end.
    pub(super) fn run(
        &self,
        command: &'static str,
        arguments: &[impl AsRef<OsStr>],
    ) -> Result<(), GitError> {
        self.finish(command, self.start(command, arguments, Stdio::null())?)
    }

    /// Starts a command.
    pub(super) fn start(
        &self,
        command: &'static str,
        arguments: &[impl AsRef<OsStr>],
        stdout: Stdio,
    ) -> Result<Held, GitError> {
        let mut git = Command::new("git");
        git.arg(command).args(arguments).current_dir(&self.folder);
        git.env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        git.envs([
            ("GIT_ASKPASS", "/bin/false"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("LC_ALL", "C"),
        ]);
        // It is nowhere else looked for.
        git.env("GIT_DIR", &self.folder).env("HOME", &self.folder);
        let fixed = SETTINGS.iter().map(|(key, value)| (*key, *value));
        let own = self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let count = SETTINGS.len() + self.settings.len();
        git.env("GIT_CONFIG_COUNT", count.to_string());
        for (index, (key, value)) in fixed.chain(own).enumerate() {
            git.env(format!("GIT_CONFIG_KEY_{index}"), key);
            git.env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        let said = File::create(self.said())?;
        git.stdin(Stdio::null()).stdout(stdout).stderr(said);
        self.leash.start(&mut git, self.bounds).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => GitError::Absent,
            _ => GitError::Broken(error),
        })
    }

    /// Waits for the end of a command.
    pub(super) fn finish(&self, command: &'static str, held: Held) -> Result<(), GitError> {
        let status = held.wait()?;
        if status.success() {
            return Ok(());
        }
        if bytes_in(&self.folder) >= self.bounds.file_bytes {
            return Err(GitError::TooLarge(self.bounds.file_bytes));
        }
        let said = self.tell().unwrap_or_default();
        // Some of it are the server's words, which may be meant for a terminal.
        let lines = said.split(|c: char| c.is_control()).map(str::trim);
        let said = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ");
        Err(GitError::Failed(command, if said.is_empty() { status.to_string() } else { said }))
    }

    fn said(&self) -> PathBuf {
        self.folder.join("said")
    }

    /// The last of what it said.
    fn tell(&self) -> io::Result<String> {
        let mut said = File::open(self.said())?;
        let len = said.metadata()?.len();
        said.seek(SeekFrom::Start(len.saturating_sub(MAX_TOLD_BYTES)))?;
        let mut bytes = Vec::new();
        said.take(MAX_TOLD_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Git {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// How much lies in a folder and below. What goes meanwhile, or is not there yet, is nothing. Git makes it, and makes it shallow.
pub(super) fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(match metadata.is_dir() {
            true => bytes_in(&entry.path()),
            // Of small files, the blocks that they take.
            false => metadata.len().max(metadata.blocks() * 512),
        })
    });
    sizes.sum()
}
