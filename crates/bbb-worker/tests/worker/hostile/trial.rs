//! Runs the table of hostile commands, and looks after each at all that must be as it was.

use std::{
    collections::BTreeMap,
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::MetadataExt as _,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use bbb_digest::Digest;
use bbb_reapi::proto::reapi;
use bbb_sandbox::Mode;
use bbb_scheduler::Outcome;
use bbb_worker::{Executor as _, Report};
use prost::Message as _;

use super::{
    cases::{CHANGES, Case, DAEMONS, ESCAPES, Ends, INPUTS, OUTPUTS},
    kernel::KERNEL,
};
use crate::{
    rig::{FUNCTION, Rig, Tree, command},
    unprivileged::run_as_nobody,
};

/// Where the staged trees lie in the folder of the store.
const TREES: &str = "scratch/actions/trees";

/// The inputs of every command.
fn tree() -> Tree {
    let sub = Tree::default().file("b", b"b\n");
    Tree::default()
        .file("in", b"input\n")
        .executable("run.sh", b"#!/bin/sh\necho ran\n")
        .symlink("link-to-a", "dir/a")
        .below("dir", Tree::default().file("a", b"a\n").below("sub", sub))
}

/// A worker, and what must stay as it is around it.
struct Trial {
    rig: Rig,
    mode: Mode,
    /// Folders that may wait for their next action.
    spare: usize,
    outside: PathBuf,
    secret: PathBuf,
    mark: String,
    /// A socket of the host that has [`Trial::mark`] for its abstract name.
    _socket: UnixListener,
    store: BTreeMap<PathBuf, Seen>,
    idle: usize,
}

/// A file of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    content: Digest,
}

impl Trial {
    async fn new(rig: Rig, mode: Mode, spare: usize) -> Self {
        let outside = rig.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let secret = rig.path().join("secret");
        fs::write(&secret, "secret\n").unwrap();
        let mark = format!("7{}{:09}", std::process::id(), rand_of(rig.path()));
        let address = SocketAddr::from_abstract_name(&mark).unwrap();
        let socket = UnixListener::bind_addr(&address).unwrap();
        let mut trial = Self {
            _socket: socket,
            rig,
            mode,
            spare,
            outside,
            secret,
            mark,
            store: BTreeMap::new(),
            idle: usize::MAX,
        };
        trial.next_is_right("the first one").await;
        // Those that are always there: inits that have told their end take a moment to be gone.
        for _ in 0..50 {
            trial.idle = trial.idle.min(trial.below_launcher().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        trial.store = trial.files();
        trial
    }

    /// One case after the other: all is as it was after each. Returns those that did not end as they should.
    async fn run(&mut self, cases: &[Case]) -> Vec<String> {
        let mut wrong = Vec::new();
        for case in cases {
            let ends = if self.mode == Mode::None { case.bare } else { case.walled };
            if ends != Ends::Untried {
                wrong.extend(self.case(case, ends).await);
                self.all_is_well(case.what).await;
            }
        }
        wrong
    }

    /// Runs one; says what came of it if that is not what should.
    async fn case(&self, case: &Case, ends: Ends) -> Option<String> {
        let mut command = command(case.script, case.outputs);
        let variables = [
            ("SECRET", self.secret.display().to_string()),
            ("OUTSIDE", self.outside.display().to_string()),
            ("NODE", std::process::id().to_string()),
            ("MARK", self.mark.clone()),
        ];
        command.environment_variables.extend(variables.map(|(name, value)| {
            reapi::command::EnvironmentVariable { name: name.to_owned(), value }
        }));
        let action = self.rig.action(tree(), &command, |action| action.do_not_cache = true).await;
        let mut task = self.rig.task(action);
        if ends == Ends::TimesOut {
            task.submission.timeout = Duration::from_millis(700);
        }
        let response = match self.rig.local.execute(task, Report::to(|_| {})).await {
            Outcome::Decided(bytes) => reapi::ExecuteResponse::decode(bytes).unwrap(),
            Outcome::Failed(_) if ends == Ends::Lost => return None,
            Outcome::Failed(reason) => {
                return Some(format!("{}: wanted {ends:?}: {reason}", case.what));
            }
        };
        let status = response.status.unwrap_or_default();
        let result = response.result.unwrap_or_default();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if result.stdout_digest.is_some() {
            stdout = self.rig.get(result.stdout_digest.as_ref()).await;
            stderr = self.rig.get(result.stderr_digest.as_ref()).await;
        }
        let code = (status.code, result.exit_code);
        let is_right = match ends {
            Ends::Says(words) => code == (0, 0) && stdout == words.as_bytes(),
            Ends::Exits(exit_code) => code == (0, exit_code),
            Ends::Refused(words) => status.code == 9 && status.message.contains(words),
            Ends::TimesOut => status.code == 4,
            Ends::Lost | Ends::Untried => false,
        };
        let [stdout, stderr] = [stdout, stderr]
            .map(|said| String::from_utf8_lossy(&said[..said.len().min(500)]).into_owned());
        (!is_right).then(|| {
            format!(
                "{}: wanted {ends:?}: {code:?} {} {stdout:?} {stderr:?}",
                case.what, status.message
            )
        })
    }

    /// Nothing of the last command lives or lies about, nothing else was changed, and the next command finds all as it should be.
    async fn all_is_well(&mut self, after: &str) {
        // Where a command killed its init, it is its launcher that ends what is left, behind.
        let mut left = self.living();
        if !left.is_empty() && self.mode == Mode::None {
            crate::rig::until(|| self.living().is_empty()).await;
            left = self.living();
        }
        assert_eq!(left, Vec::<String>::new(), "{after}: processes are left");
        crate::rig::until(|| self.rig.folders().len() <= self.spare).await;
        assert_eq!(fs::read_to_string(&self.secret).unwrap(), "secret\n", "{after}");
        for entry in fs::read_dir(&self.outside).unwrap() {
            // Whoever has a second name for an output of old may write to it for ever.
            fs::write(entry.unwrap().path(), "changed later\n").unwrap();
        }
        let now = self.files();
        for (path, seen) in &self.store {
            assert_eq!(now.get(path), Some(seen), "{after}: {} changed", path.display());
        }
        for (path, seen) in now.iter().filter(|(path, _)| !self.store.contains_key(*path)) {
            let tree = self.tree_of(path).filter(|tree| self.store.contains_key(tree));
            assert_eq!(tree, None, "{after}: {} is new in a staged tree", path.display());
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_file() && path.components().any(|part| part.as_os_str() == "cas") {
                let hash = seen.content.hex();
                assert!(name.starts_with(hash.as_str()), "{after}: {name} holds {hash}");
            }
        }
        self.store = now;
        self.next_is_right(after).await;
        let mut tries = 0..1000;
        while self.below_launcher().await != self.idle {
            assert!(tries.next().is_some(), "{after}: the launcher has others below it");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn next_is_right(&self, after: &str) {
        let script = "cat in dir/a dir/sub/b link-to-a; ./run.sh; ls; ls -A /tmp >/dev/null; stat -c %a in dir run.sh; echo new >out";
        let command = command(script, &["out"]);
        let action = self.rig.action(tree(), &command, |action| action.do_not_cache = true).await;
        let done = self.rig.execute(self.rig.task(action)).await;
        assert_eq!(done.code(), 0, "{after}: {}", done.error());
        let said = self.rig.stdout(&done).await;
        let expected = "input\na\nb\na\nran\ndir\nin\nlink-to-a\nrun.sh\n444\n755\n555\n";
        assert_eq!(said, expected, "{after}: {}", self.rig.stderr(&done).await);
        assert_eq!(done.result().output_files.len(), 1, "{after}");
    }

    /// The processes that any command started, by what they say of themselves.
    fn living(&self) -> Vec<String> {
        let is_marked = |file: PathBuf| {
            let bytes = fs::read(file).unwrap_or_default();
            bytes.windows(self.mark.len()).any(|part| part == self.mark.as_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        processes
            .filter(|path| is_marked(path.join("environ")) || is_marked(path.join("cmdline")))
            .map(|path| fs::read_to_string(path.join("stat")).unwrap_or_default())
            .collect()
    }

    /// How many processes the launcher has as children.
    async fn below_launcher(&self) -> usize {
        let launcher = self.rig.sandbox.launcher_process().await;
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"));
        children.unwrap().split_whitespace().count()
    }

    /// The blobs and results that the store has on disk, and the trees that are staged for all actions.
    fn files(&self) -> BTreeMap<PathBuf, Seen> {
        let store = self.rig.path().join("store");
        let mut seen = BTreeMap::new();
        let mut open = vec![store.join("cas"), store.join("ac"), store.join(TREES)];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let bytes = if metadata.is_file() {
                    fs::read(&path).unwrap()
                } else if metadata.is_symlink() {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                } else {
                    Vec::new()
                };
                let content = Digest::of(FUNCTION, &bytes);
                let (mode, owner) = (metadata.mode(), (metadata.uid(), metadata.gid()));
                if metadata.is_dir() {
                    open.push(path.clone());
                }
                seen.insert(path, Seen { mode, owner, content });
            }
        }
        seen
    }

    /// The root of the staged tree that something lies in.
    fn tree_of(&self, path: &Path) -> Option<PathBuf> {
        let trees = self.rig.path().join("store").join(TREES);
        let inside: PathBuf = path.strip_prefix(&trees).ok()?.components().take(2).collect();
        let root = trees.join(inside);
        (root != path).then_some(root)
    }
}

/// A number that another run has not: the folder of each has a name of its own.
fn rand_of(path: &Path) -> u32 {
    let hash = Digest::of(FUNCTION, path.as_os_str().as_encoded_bytes());
    u32::from_be_bytes(hash.hash()[..4].try_into().unwrap()) % 1_000_000_000
}

async fn try_all(rig: Rig, mode: Mode, spare: usize) {
    try_some(rig, mode, spare, &[ESCAPES, KERNEL, CHANGES, INPUTS, DAEMONS, OUTPUTS]).await;
}

/// Tries what can be done to inputs: to their names, and these changes.
pub(super) async fn try_inputs(rig: Rig, changes: &[Case]) {
    try_some(rig, Mode::Namespaces, 0, &[changes, INPUTS]).await;
}

async fn try_some(rig: Rig, mode: Mode, spare: usize, tables: &[&[Case]]) {
    let mut trial = Trial::new(rig, mode, spare).await;
    let mut wrong = Vec::new();
    for cases in tables {
        wrong.extend(trial.run(cases).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_inputs_below_an_overlay() {
    let rig = Rig::new(Mode::Namespaces).await;
    try_all(rig, Mode::Namespaces, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_inputs_in_a_plain_folder() {
    let rig = Rig::with(Mode::Namespaces, |settings| settings.copied_files = 1000).await;
    try_all(rig, Mode::Namespaces, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_folders_that_are_used_again() {
    let rig = Rig::with(Mode::Namespaces, |settings| settings.spare_folders = 2).await;
    try_all(rig, Mode::Namespaces, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_walls() {
    try_all(Rig::new(Mode::None).await, Mode::None, 0).await;
}

/// All tests of hostile actions once more, of a node that is nobody in particular.
#[test]
fn all_of_it_as_a_user_without_privileges() {
    run_as_nobody(&["hostile::", "--skip", "without_privileges"]);
}
