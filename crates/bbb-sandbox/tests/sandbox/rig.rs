//! A sandbox in a folder of its own, and commands for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bbb_sandbox::{Config, Enforced, ExecRoot, Exit, Launched, Mode, Request, Sandbox, Staging};

/// What a command left: its end and its output.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Left {
    pub(crate) fn code(&self) -> i32 {
        self.exit.status.code()
    }
}

/// A started sandbox.
pub(crate) struct Rig {
    pub(crate) sandbox: Launched,
    folder: tempfile::TempDir,
    next: AtomicU32,
}

/// The folders of one command.
#[derive(Clone)]
pub(crate) struct Staged {
    pub(crate) folder: PathBuf,
}

impl Staged {
    pub(crate) fn lower(&self) -> PathBuf {
        self.folder.join("lower")
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    /// A request for a shell script, with a `PATH`.
    pub(crate) fn script(&self, sandbox: &dyn Sandbox, script: &str) -> Request {
        self.program(sandbox, &["/bin/sh", "-c", script])
    }

    pub(crate) fn program(&self, sandbox: &dyn Sandbox, arguments: &[&str]) -> Request {
        let root = match sandbox.staging() {
            Staging::Overlay => ExecRoot::Overlay {
                lowers: vec![self.lower()],
                upper: self.upper(),
                work: self.folder.join("work"),
            },
            Staging::Plain => ExecRoot::Plain(self.lower()),
        };
        let mut request = Request::new(
            arguments.iter().map(Into::into).collect(),
            root,
            self.folder.join("tmp"),
            self.folder.join("stdout"),
            self.folder.join("stderr"),
        );
        request.environment = vec![("PATH".into(), "/usr/bin:/bin".into())];
        // Whatever goes wrong, no test hangs.
        request.timeout = Some(Duration::from_secs(60));
        request
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("stdout")).unwrap()).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("stderr")).unwrap()).into_owned()
    }
}

impl Rig {
    pub(crate) async fn new(mode: Mode) -> Self {
        Rig::configured(|config| config.mode = mode).await
    }

    /// One that is set up in another way.
    pub(crate) async fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path().to_owned());
        config.mode = Mode::Namespaces;
        change(&mut config);
        config.launcher = Some(env!("CARGO_BIN_EXE_bbb-launcher").into());
        let sandbox = bbb_sandbox::start(config).await.unwrap();
        // Set where control groups are known to work, so that no test of them is passed over.
        if std::env::var_os("BBB_ALL_LIMITS").is_some() {
            let kept = sandbox.probe().limits;
            assert_eq!([kept.memory, kept.processes, kept.cpu], [Enforced::Action; 3], "{kept:?}");
        }
        Rig { sandbox, folder, next: AtomicU32::new(0) }
    }

    /// One rig for each mode that works here.
    pub(crate) async fn all() -> [Self; 2] {
        [Rig::new(Mode::Namespaces).await, Rig::new(Mode::None).await]
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn stage(&self) -> Staged {
        let folder = self.folder.path().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        for name in ["lower", "upper", "work", "tmp"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        for name in ["stdout", "stderr"] {
            fs::write(folder.join(name), b"").unwrap();
        }
        Staged { folder }
    }

    pub(crate) async fn run(&self, staged: &Staged, request: Request) -> Left {
        let exit = self.sandbox.run(request).await.unwrap();
        Left { exit, stdout: staged.stdout(), stderr: staged.stderr() }
    }

    /// Runs a shell script in fresh folders.
    pub(crate) async fn script(&self, script: &str) -> Left {
        let staged = self.stage();
        self.run(&staged, staged.script(&self.sandbox, script)).await
    }

    /// Runs a script that prints something and then lasts, with a timeout that leaves it the time to print:
    /// a short one, and on a machine too busy for that a longer one.
    pub(crate) async fn timed_out(&self, script: &str, grace: Duration) -> Left {
        for timeout_ms in [300, 3_000, 15_000] {
            let staged = self.stage();
            let mut request = staged.script(&self.sandbox, script);
            request.timeout = Some(Duration::from_millis(timeout_ms));
            request.grace = grace;
            let left = self.run(&staged, request).await;
            if !left.stdout.is_empty() {
                return left;
            }
        }
        panic!("the script did not begin: {script}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A `TempDir` alone gives up at what overlays leave.
        let _ = bbb_sandbox::remove_tree(self.folder.path());
    }
}

/// Waits until `done`; fails after half a minute.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come");
}

/// Whether any process on the machine has `marker` among its arguments.
pub(crate) fn lives(marker: &str) -> bool {
    fs::read_dir("/proc").unwrap().any(|entry| {
        let path = entry.unwrap().path().join("cmdline");
        fs::read(path).is_ok_and(|line| {
            line.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes())
        })
    })
}
