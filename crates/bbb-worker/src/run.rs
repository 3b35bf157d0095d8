//! The third stage: the command runs in the sandbox, with exactly what it asks for.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bbb_reapi::{Invalid, Properties};
use bbb_sandbox::{
    DEFAULT_MOUNT_POINT, Enforced, Enforcement, Exit, Limits, Mode, Request, Sandbox,
};
use bbb_scheduler::{
    Demand,
    steering::{INPUT_ROOT, NETWORK},
};

use crate::{error::Error, fullness, renewal::Part, stage::Prepared};

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
}

impl Prepared {
    /// Runs the command to its end.
    pub(crate) async fn run(
        self,
        sandbox: &dyn Sandbox,
        limits: Limits,
        network: bool,
        input_root: Option<&Path>,
    ) -> Result<Ran, Error> {
        let platform = &self.lease.platform;
        let mount_point = mount_point(platform, input_root, sandbox.probe().mode)?;
        let limits = bounded(limits, self.lease.task.submission.demand, sandbox.probe().limits);
        let command = &self.lease.command;
        let network = network || platform.get(NETWORK) == Some("on");
        if network {
            // It could hand what it has open to whoever shares that network.
            self.folder.retire();
        }
        let request = Request {
            environment: (command.environment.iter())
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            mount_point: mount_point.clone(),
            working_directory: command.working_directory.as_str().into(),
            network,
            timeout: Some(self.lease.task.submission.timeout),
            limits,
            hold: Some(Arc::clone(&self.folder) as _),
            ..Request::new(
                command.arguments.iter().map(Into::into).collect(),
                self.root.clone(),
                self.folder.part(Part::Temporary),
                self.folder.part(Part::Stdout),
                self.folder.part(Part::Stderr),
            )
        };
        let limit =
            self.lease.task.submission.timeout.saturating_add(request.grace).saturating_add(SLACK);
        let running = tokio::time::timeout(limit, sandbox.run(request));
        let (ran, was_full) = fullness::watching(self.folder.path(), running).await;
        match ran {
            Err(_) => Err(Error::Late { phase: "running the command", limit }),
            Ok(Ok(exit)) => match machines_fault(&exit, limits, was_full) {
                Some(fault) => Err(Error::Unable(fault.to_owned())),
                None => Ok(Ran { prepared: self, mount_point, exit }),
            },
            Ok(Err(bbb_sandbox::Error::Invalid(reason))) => {
                Err(Invalid::new("command", reason).into())
            }
            Ok(Err(error)) => Err(Error::fault("run the command", error)),
        }
    }
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

/// What of the machine made a command fail, as far as that can be known.
fn machines_fault(exit: &Exit, limits: Limits, was_full: bool) -> Option<&'static str> {
    if exit.status.code() == 0 || exit.timed_out {
        return None;
    }
    if exit.out_of_memory && limits.memory_bytes.is_none() {
        return Some("the command failed when the machine ran out of memory and killed some of it");
    }
    was_full.then_some("the command failed while the file system under it was full")
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
