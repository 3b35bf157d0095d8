//! What stands before an operation: is it known already, is it complete, may it run at all.

use std::{sync::Arc, time::Duration};

use bbb_digest::{Digest, InstanceName};
use bbb_reapi::{
    Action, Command, Invalid,
    proto::{longrunning::Operation, reapi::ExecuteRequest},
    requested_function, required_digest,
};
use bbb_scheduler::{ActionKey, InputPart, Platform, Submission, steering::is_steering};
use bbb_storage::{CasExt as _, Error, Found, Instances, Stores};
use bytes::Bytes;
use tonic::Status;

use super::{ExecutionSettings, demand::demand, message, parts::parts, steering};
use crate::{
    inline::{Hints, Inlining},
    status::{self, IntoStatus as _, MAX_VIOLATIONS_IN_TRAILERS},
};

/// The largest `Action` and `Command` that are read, in bytes: a command line is shorter than that on any
/// system.
const MAX_MESSAGE_BYTES: u64 = 16 << 20;

pub(super) struct Admission<'a> {
    pub(super) instances: &'a Instances,
    pub(super) settings: ExecutionSettings,
}

pub(super) enum Verdict {
    /// There is nothing to run.
    Answered(Box<Operation>),
    /// It may run; what the client wants inlined is still to be done at the end.
    Admitted(Box<Submission>, Option<Inlining>),
}

impl Admission<'_> {
    /// Judges a request. `invocation` names the build; it is asked only for what will run.
    pub(super) async fn admit(
        &self,
        request: ExecuteRequest,
        invocation: impl FnOnce() -> String,
    ) -> Result<Verdict, Status> {
        let (instance, digest) = parse(&request).map_err(|invalid| invalid.into_status())?;
        let stores = self.instances.get(&instance);
        let hints = Hints {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: request.inline_output_files,
        };
        let inlining = Inlining::new(&stores.cas, digest.function(), hints);
        if !request.skip_cache_lookup
            && let Some(operation) = cached(&stores, &instance, digest, inlining.as_ref()).await?
        {
            return Ok(Verdict::Answered(Box::new(operation)));
        }
        if !self.settings.enabled {
            let what = "no node runs actions here: start some with --worker_slots";
            return Err(status::failed_precondition(what));
        }
        let Whole { action, command, inputs } = match read(&stores, &instance, digest).await? {
            Read::Whole(whole) => *whole,
            Read::Missing(missing) => return refuse(instance, digest, &missing),
        };
        let timeout = self.timeout(&action).map_err(|invalid| invalid.into_status())?;
        let priority = request.execution_policy.map_or(0, |policy| policy.priority);
        // As the worker reads them: an empty message says nothing.
        let own = action.platform.as_ref().filter(|platform| !platform.is_empty());
        let platform = own.unwrap_or(&command.platform);
        steering::check(platform).map_err(|invalid| invalid.into_status())?;
        let demand = demand(platform).map_err(|invalid| invalid.into_status())?;
        let required = platform.iter().filter(|(name, _)| !is_steering(name));
        let submission = Submission {
            mergeable: !action.do_not_cache,
            requirement: required.map(owned).collect::<Platform>(),
            timeout,
            priority,
            invocation: invocation().into(),
            demand,
            inputs,
            ..Submission::of(ActionKey { instance, action: digest })
        };
        Ok(Verdict::Admitted(Box::new(submission), inlining))
    }

    /// How long the command may run. A timeout of zero counts as none, since nothing could run with it.
    fn timeout(&self, action: &Action) -> Result<Duration, Invalid> {
        let longest = self.settings.action_timeout;
        match action.timeout {
            Some(timeout) if timeout > longest => {
                let (asked, longest) = (timeout.as_secs_f64(), longest.as_secs());
                let what =
                    format!("{asked} s is longer than the {longest} s that are allowed here");
                Err(Invalid::new("action.timeout", what))
            }
            Some(timeout) if !timeout.is_zero() => Ok(timeout),
            _ => Ok(longest),
        }
    }
}

fn parse(request: &ExecuteRequest) -> Result<(InstanceName, Digest), Invalid> {
    let instance = (request.instance_name.parse())
        .map_err(|error: bbb_digest::InstanceNameError| Invalid::new("instance_name", error))?;
    let wire = request.action_digest.as_ref();
    let function = requested_function(request.digest_function, wire)?;
    Ok((instance, required_digest(function, "action_digest", wire)?))
}

/// The operation of an action whose result is known.
async fn cached(
    stores: &Stores,
    instance: &InstanceName,
    action: Digest,
    inlining: Option<&Inlining>,
) -> Result<Option<Operation>, Status> {
    let found = stores.action_cache.get(action).await.map_err(|error| error.into_status())?;
    let Some(mut result) = found else { return Ok(None) };
    if let Some(inlining) = inlining {
        inlining.fill(Arc::make_mut(&mut result)).await;
    }
    Ok(Some(message::cached(instance.clone(), action, &result)))
}

enum Read {
    Whole(Box<Whole>),
    Missing(Vec<Digest>),
}

/// An action with all that it needs.
struct Whole {
    action: Action,
    command: Command,
    inputs: Arc<[InputPart]>,
}

/// Reads an action and its command, and sees whether all that they need is there. Tells everything that is
/// missing at once.
async fn read(stores: &Stores, instance: &InstanceName, digest: Digest) -> Result<Read, Status> {
    let Some(bytes) = message(stores, digest).await? else {
        return Ok(Read::Missing(vec![digest]));
    };
    let action = Action::decode(digest.function(), &bytes).map_err(|error| error.into_status())?;
    let (command, tree) =
        futures::join!(message(stores, action.command), stores.trees.find(action.input_root));
    let (inputs, mut missing) = match tree.map_err(|error| error.into_status())? {
        Found::Whole(tree) => (parts(instance, &tree), Vec::new()),
        Found::Missing(missing) => (Arc::default(), missing),
    };
    let command = match command? {
        Some(bytes) => Some(Command::decode(&bytes).map_err(|error| error.into_status())?),
        None => {
            missing.push(action.command);
            None
        }
    };
    match command {
        Some(command) if missing.is_empty() => {
            Ok(Read::Whole(Box::new(Whole { action, command, inputs })))
        }
        _ => {
            missing.sort();
            missing.dedup();
            Ok(Read::Missing(missing))
        }
    }
}

/// A message of the CAS, if it is there.
async fn message(stores: &Stores, digest: Digest) -> Result<Option<Bytes>, Status> {
    if digest.is_empty() {
        return Ok(Some(Bytes::new()));
    }
    if digest.size_bytes() > MAX_MESSAGE_BYTES {
        let what = format!("{digest} is larger than the {MAX_MESSAGE_BYTES} bytes of a message");
        return Err(Invalid::new("action_digest.size_bytes", what).into_status());
    }
    match stores.cas.get_bytes(digest, MAX_MESSAGE_BYTES).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Missing(_)) => Ok(None),
        Err(error) => Err(error.into_status()),
    }
}

/// Names everything that is missing: at the end of the call where that has room, else in the response of an
/// operation, so that the client can upload all of it at once.
fn refuse(instance: InstanceName, action: Digest, missing: &[Digest]) -> Result<Verdict, Status> {
    if missing.len() <= MAX_VIOLATIONS_IN_TRAILERS {
        return Err(status::missing_inputs(missing));
    }
    let operation = message::refused(instance, action, status::missing_inputs_message(missing));
    Ok(Verdict::Answered(Box::new(operation)))
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}
