//! The third stage: the command runs in the sandbox, with exactly what it asks for.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_reapi::{Invalid, OutputPath, Properties};
use bbb_sandbox::{
    DEFAULT_MOUNT_POINT, Enforced, Enforcement, Exit, Limits, Mode, Request, Sandbox, Status, Usage,
};
use bbb_scheduler::{
    Demand,
    steering::{INPUT_ROOT, NETWORK},
};
use rustix::process::Signal;
use tokio::sync::oneshot;

use crate::{
    cleanup::SharedFolder,
    error::Error,
    inputs::{InputTree, Node},
    renewal::Part,
    scratch::{Excess, Watch, Watched},
    stage::Prepared,
};

/// How much longer than its timeout a command may take to be set up and ended, before its sandbox is
/// given up.
const SLACK: Duration = Duration::from_secs(60);

/// A command that came to its end.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) prepared: Prepared,
    /// Where the exec root stood for the command.
    pub(crate) mount_point: PathBuf,
    pub(crate) exit: Exit,
    /// That it wrote more than there was room for.
    pub(crate) excess: Option<Excess>,
}

/// What holds for all commands of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walls<'a> {
    /// What one command may take.
    pub(crate) limits: Limits,
    /// Whether all see the host's network.
    pub(crate) network: bool,
    /// Where the input root stands for those that do not ask for a place.
    pub(crate) input_root: Option<&'a Path>,
}

impl Prepared {
    /// Runs the command to its end, or to that of what it may write.
    pub(crate) async fn run(
        self,
        sandbox: &dyn Sandbox,
        walls: Walls<'_>,
        watch: &Watch,
    ) -> Result<Ran, Error> {
        let probe = sandbox.probe();
        let mount_point = mount_point(&self.lease.platform, walls.input_root, probe.mode)?;
        if mount_point == Path::new("/") {
            check_whole_root(&self.lease.inputs)?;
        }
        let limits = bounded(walls.limits, self.lease.task.submission.demand, probe.limits);
        let (alive, gone) = oneshot::channel();
        let request = self.request(walls.network, limits, mount_point.clone(), alive);
        let limit =
            self.lease.task.submission.timeout.saturating_add(request.grace).saturating_add(SLACK);
        let mut watched = watch.begin(self.folder.path(), Arc::clone(self.folder.claim()));
        let started = SystemTime::now();
        let ran = tokio::select! {
            biased;
            ran = tokio::time::timeout(limit, sandbox.run(request)) => ran,
            // It is killed when its future is dropped.
            excess = watched.exceeded() => return self.ended(excess, gone, started, mount_point).await,
        };
        match ran {
            Err(_) => Err(Error::Late { phase: "running the command", limit }),
            Ok(Ok(exit)) => {
                let excess = blame(&exit, limits, &watched).await?;
                Ok(Ran { prepared: self, mount_point, exit, excess })
            }
            Ok(Err(bbb_sandbox::Error::Invalid(reason))) => {
                Err(Invalid::new("command", reason).into())
            }
            Ok(Err(error)) => Err(Error::fault("run the command", error)),
        }
    }

    fn request(
        &self,
        network: bool,
        limits: Limits,
        mount_point: PathBuf,
        alive: oneshot::Sender<()>,
    ) -> Request {
        let command = &self.lease.command;
        let network = network || self.lease.platform.get(NETWORK) == Some("on");
        if network {
            // It could hand what it has open to whoever shares that network.
            self.folder.retire();
        }
        Request {
            environment: (command.environment.iter())
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            mount_point,
            working_directory: command.working_directory.as_str().into(),
            network,
            timeout: Some(self.lease.task.submission.timeout),
            limits,
            hold: Some(Arc::new(Hold { _folder: Arc::clone(&self.folder), _alive: alive })),
            ..Request::new(
                command.arguments.iter().map(Into::into).collect(),
                self.root.clone(),
                self.folder.part(Part::Temporary),
                self.folder.part(Part::Stdout),
                self.folder.part(Part::Stderr),
            )
        }
    }

    /// Waits for the end of a command that is being killed for what it wrote.
    async fn ended(
        self,
        excess: Excess,
        gone: oneshot::Receiver<()>,
        started: SystemTime,
        mount_point: PathBuf,
    ) -> Result<Ran, Error> {
        let action = self.lease.task.submission.key.action;
        tracing::warn!(%action, %excess, "action is ended for what it writes");
        if !excess.is_its_own() {
            return Err(Error::Unable(excess.to_string()));
        }
        // Nobody sends: it is dropped when nothing of the action lives.
        if tokio::time::timeout(SLACK, gone).await.is_err() {
            return Err(Error::Late { phase: "killing the command", limit: SLACK });
        }
        let wall = started.elapsed().unwrap_or_default();
        let exit = Exit {
            status: Status::Signaled(Signal::KILL.as_raw()),
            timed_out: false,
            out_of_memory: false,
            started,
            usage: Usage { wall, ..Usage::default() },
        };
        Ok(Ran { prepared: self, mount_point, exit, excess: Some(excess) })
    }
}

/// Held by the sandbox for as long as anything of an action lives.
struct Hold {
    _folder: SharedFolder,
    _alive: oneshot::Sender<()>,
}

/// What a command may take: no more than it asked for, where that can be kept for all of its processes together. A bound for each process alone would hit
/// those that reserve more than they use.
fn bounded(limits: Limits, demand: Demand, kept: Enforcement) -> Limits {
    let lower = |limit: Option<u64>, asked: u64, kept: Enforced| match kept {
        Enforced::Action if asked > 0 => Some(limit.map_or(asked, |limit| limit.min(asked))),
        _ => limit,
    };
    let thousandths = lower(limits.cpu_thousandths.map(u64::from), demand.millicpus, kept.cpu);
    Limits {
        memory_bytes: lower(limits.memory_bytes, demand.memory_bytes, kept.memory),
        cpu_thousandths: thousandths.map(|share| u32::try_from(share).unwrap_or(u32::MAX)),
        ..limits
    }
}

/// What a command wrote, if that made it fail.
///
/// # Errors
/// [`Error::Unable`] if it was the machine that made it fail, as far as that can be known.
async fn blame(exit: &Exit, limits: Limits, watched: &Watched) -> Result<Option<Excess>, Error> {
    if exit.status.code() == 0 || exit.timed_out {
        return Ok(None);
    }
    if exit.out_of_memory && limits.memory_bytes.is_none() {
        let fault = "the command failed when the machine ran out of memory and killed some of it";
        return Err(Error::Unable(fault.to_owned()));
    }
    let excess = match is_too_large(exit.status) {
        true => Some(watched.excess().await?),
        false => watched.found_full().await?,
    };
    match excess {
        // A file can be too large without taking any room.
        Some(excess) if excess.full.is_none() && !excess.is_its_own() => Ok(None),
        Some(excess) if !excess.is_its_own() => {
            Err(Error::Unable(format!("the command failed while the disk was full: {excess}")))
        }
        excess => Ok(excess),
    }
}

/// Whether a command was ended since a file of it would have become larger than any may.
pub(crate) fn is_too_large(status: Status) -> bool {
    const XFSZ: i32 = Signal::XFSZ.as_raw();
    // Of its own process, or of one that a shell waited for.
    matches!(status, Status::Signaled(XFSZ)) || status == Status::Exited(128 + XFSZ)
}

/// Where the exec root stands for the command: where it asks for, else where the worker has it.
fn mount_point(
    platform: &Properties,
    default: Option<&Path>,
    mode: Mode,
) -> Result<PathBuf, Error> {
    match platform.get(INPUT_ROOT).map(Path::new).or(default) {
        None => Ok(DEFAULT_MOUNT_POINT.into()),
        Some(_) if mode == Mode::None => Err(Error::Unable(format!(
            "worker runs actions without namespaces, so it cannot honour {INPUT_ROOT}"
        ))),
        Some(path) => Ok(path.into()),
    }
}

/// Refuses a whole root in which the sandbox's own folders have no place: it follows no link that came with the inputs.
fn check_whole_root(inputs: &InputTree) -> Result<(), Invalid> {
    for name in ["proc", "dev", "tmp"] {
        if let Some(Node::File(_) | Node::Symlink) = inputs.at(&OutputPath::new(name)?) {
            let what =
                format!("with {INPUT_ROOT}=/ its {name} must be a directory, or not be there");
            return Err(Invalid::new("action.input_root_digest", what));
        }
    }
    Ok(())
}
