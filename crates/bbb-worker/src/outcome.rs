//! The last stage: the outputs are stored, and the result is cached where it may be and encoded for whoever
//! asked.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use bbb_reapi::{
    ToProto as _,
    proto::{reapi, rpc},
    status::{self, Code},
    to_duration, to_timestamp,
};
use bbb_sandbox::{ExecRoot, Mode, View, removal};
use bbb_scheduler::Outcome;
use bbb_storage::ActionLogs;
use prost::Message as _;
use rustix::fs::OFlags;

use crate::{
    cleanup::Folder,
    collect::{OutputFile, Scene, Survey},
    error::{Error, blocking, chain},
    kept::KeptRoots,
    local::{Keep, Settings},
    renewal::Part,
    run::{Ran, is_too_large},
    times::{Clock, Times},
    upload::{Begun, Blobs, Hashing, assemble},
    usage,
};

impl Ran {
    /// Stores the outputs, and the result where it may be cached.
    pub(crate) async fn settle(
        self,
        settings: &Settings,
        mode: Mode,
        clock: Clock,
        times: Times,
        shown: Option<ActionLogs>,
        kept_roots: Option<&Arc<KeptRoots>>,
    ) -> Result<Outcome, Error> {
        let uploads_from = clock.now();
        let lease = Arc::clone(&self.prepared.lease);
        let function = lease.task.submission.key.action.function();
        let folder = Arc::clone(&self.prepared.folder);
        let ended_well = self.exit.status.code() == 0 && !self.exit.timed_out;
        // There is no room for what took too much of it.
        let keeps = settings.keep.keeps(ended_well) && self.excess.is_none();
        let hashing = Hashing { function, folder: Arc::clone(&folder), keep: keeps };
        let first = hashing.clone();
        let (ran, survey, begun, is_cut) = blocking("survey outputs", move || {
            let (survey, begun, is_cut) = self.look_over(&first, mode)?;
            Ok((self, survey, begun, is_cut))
        })
        .await?;

        let mut blobs = Blobs::default();
        let mut digests = hashing.finish(&mut blobs, begun).await?;
        let (stderr, stdout) = (digests.pop(), digests.pop());
        let format = lease.command.output_directory_format;
        // Only trees take long to encode and hash.
        let has_directories = survey.has_directories();
        let assembled = move || {
            let result = assemble(&mut blobs, function, format, &survey, &digests);
            Ok((result, blobs, survey))
        };
        let (mut result, blobs, survey) = match has_directories {
            true => blocking("assemble outputs", assembled).await?,
            false => assembled()?,
        };
        result.exit_code = ran.exit.status.code();
        result.stdout_digest = stdout.map(|digest| digest.to_proto());
        result.stderr_digest = stderr.map(|digest| digest.to_proto());
        let claim = (!keeps).then(|| &**folder.claim());
        blobs.store(&lease.stores, settings.download_concurrency, claim).await?;
        // One that is cut ends as such.
        if let (false, Some(shown), Some(stdout), Some(stderr)) = (is_cut, shown, stdout, stderr) {
            shown.end(stdout, stderr);
        }

        let metadata = metadata(&ran, settings, clock, times, uploads_from);
        result.execution_metadata = Some(metadata);
        if let Some(refused) = refused_if_too_large(&result) {
            return Ok(refused);
        }
        let status = ran.status(&survey);
        if status.code == Code::Ok as i32 && result.exit_code == 0 && !lease.action.do_not_cache {
            cache(&ran, &result).await?;
        }
        let kept = match keeps {
            true => ran.keep_told(kept_roots).await?,
            false => None,
        };
        let message = ran.message(survey, kept);
        let response = reapi::ExecuteResponse {
            result: Some(result),
            status: Some(status),
            message,
            ..reapi::ExecuteResponse::default()
        };
        Ok(Outcome::Decided(response.encode_to_vec().into()))
    }

    /// Keeps the exec root if there is room, and says in the log where.
    async fn keep_told(
        &self,
        kept_roots: Option<&Arc<KeptRoots>>,
    ) -> Result<Option<PathBuf>, Error> {
        let path = self.keep(kept_roots).await?;
        let action = self.prepared.lease.task.submission.key.action;
        match &path {
            Some(path) => tracing::info!(path = %path.display(), %action, "exec root is kept"),
            None => tracing::info!(%action, "there is no room to keep the exec root"),
        }
        Ok(path)
    }

    /// Finds what the action made and begins to hash it: its files, then its stdout and stderr, of which it says whether only
    /// the start is left.
    fn look_over(&self, hashing: &Hashing, mode: Mode) -> Result<(Survey, Begun, bool), Error> {
        let (mut survey, is_cut) = match self.excess {
            None => (self.survey(mode)?, false),
            // What it made is what there is no room for.
            Some(_) => (Survey::default(), cut_streams(&hashing.folder, mode)?),
        };
        let streams =
            [Part::Stdout, Part::Stderr].map(|part| OutputFile::Made(hashing.folder.part(part)));
        let files = std::mem::take(&mut survey.files).into_iter().chain(streams);
        let begun = hashing.begin(files.inspect(|file| match file {
            OutputFile::Made(path) if mode == Mode::None => removal::let_go(path),
            _ => {}
        }))?;
        Ok((survey, begun, is_cut))
    }

    fn survey(&self, mode: Mode) -> Result<Survey, Error> {
        // Without namespaces the exec root stood where it is.
        let mount_point = match &self.prepared.root {
            ExecRoot::Plain(folder) if mode == Mode::None => folder,
            _ => &self.mount_point,
        };
        let root = &self.prepared.root;
        let view = View::new(root, mount_point);
        Survey::take(&Scene { lease: &self.prepared.lease, root, view, mount_point })
    }

    fn status(&self, survey: &Survey) -> rpc::Status {
        if self.exit.timed_out {
            let limit = self.prepared.lease.task.submission.timeout;
            let message = format!("command took longer than its timeout of {limit:?}");
            return status::plain(Code::DeadlineExceeded, message);
        }
        match &survey.problem {
            // A command that failed need not have made what it should.
            Some(problem) if self.exit.status.code() == 0 => {
                status::plain(Code::FailedPrecondition, problem.clone())
            }
            _ => status::plain(Code::Ok, ""),
        }
    }

    /// What helps people, a sentence a line.
    fn message(&self, survey: Survey, kept: Option<PathBuf>) -> String {
        let mut notes = survey.notes;
        if survey.further_notes > 0 {
            notes.push(format!("and {} more", survey.further_notes));
        }
        if self.exit.out_of_memory {
            notes.push("the memory limit killed a process of the action".into());
        }
        notes.extend(self.excess.map(|excess| format!("ended for what it wrote: {excess}")));
        if self.excess.is_none() && is_too_large(self.exit.status) {
            notes.push("a file may not become larger than the worker's --cache_size".into());
        }
        notes.extend(kept.map(|path| format!("exec root kept at {}", path.display())));
        notes.join("\n")
    }
}

/// The largest result that is told of, in bytes: what nodes take from each other in one message, and some room for what goes with it. One
/// that is larger would end every connection that it came to.
const MAX_RESULT_BYTES: usize = 15 << 20;

/// How the action ends if nobody could be told its result.
fn refused_if_too_large(result: &reapi::ActionResult) -> Option<Outcome> {
    let bytes = result.encoded_len();
    if bytes <= MAX_RESULT_BYTES {
        return None;
    }
    let what = format!(
        "the result has {bytes} bytes, more than the {MAX_RESULT_BYTES} that can be told of: \
         declare directories in place of what is in them"
    );
    let status = Some(status::plain(Code::FailedPrecondition, what));
    let response = reapi::ExecuteResponse { status, ..reapi::ExecuteResponse::default() };
    Some(Outcome::Decided(response.encode_to_vec().into()))
}

/// How much of what an action printed is told when it wrote too much, of each stream, in bytes.
const TOLD_BYTES: u64 = 1 << 20;

/// Leaves of what an action printed what is told of it. Whether that is not all.
fn cut_streams(folder: &Folder, mode: Mode) -> Result<bool, Error> {
    let mut is_cut = false;
    for part in [Part::Stdout, Part::Stderr] {
        if mode == Mode::None {
            removal::let_go(&folder.part(part));
        }
        let cut = || {
            // The action may have put anything in its place, where it reaches it.
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::open(folder.part(part), flags, rustix::fs::Mode::empty())?;
            let is_long =
                u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0) > TOLD_BYTES;
            if is_long {
                rustix::fs::ftruncate(&file, TOLD_BYTES)?;
            }
            rustix::io::Result::Ok(is_long)
        };
        is_cut |= cut().map_err(|error| Error::fault("cut what the action printed", error))?;
    }
    Ok(is_cut)
}

/// Stores a result whose blobs are durable. Where that fails the result is still good for who asked.
async fn cache(ran: &Ran, result: &reapi::ActionResult) -> Result<(), Error> {
    let lease = &ran.prepared.lease;
    let action = lease.task.submission.key.action;
    match lease.stores.action_cache.put(action, result.clone()).await {
        Ok(()) => Ok(()),
        // Blobs got lost meanwhile: whoever asked would not find them either.
        Err(error @ bbb_storage::Error::Incomplete(_)) => {
            Err(Error::fault("cache the result", error))
        }
        Err(error) => {
            tracing::warn!(%action, error = chain(&error), "result is not cached");
            Ok(())
        }
    }
}

fn metadata(
    ran: &Ran,
    settings: &Settings,
    clock: Clock,
    times: Times,
    uploads_from: SystemTime,
) -> reapi::ExecutedActionMetadata {
    let at = |time| Some(to_timestamp(time));
    let now = clock.now();
    let ran_from = ran.exit.started.clamp(times.fetched, times.ran);
    reapi::ExecutedActionMetadata {
        worker: settings.worker.clone(),
        queued_timestamp: at(ran.prepared.lease.task.queued_at.min(clock.started())),
        worker_start_timestamp: at(clock.started()),
        input_fetch_start_timestamp: at(clock.started()),
        input_fetch_completed_timestamp: at(times.fetched),
        execution_start_timestamp: at(ran_from),
        execution_completed_timestamp: at(times.ran),
        virtual_execution_duration: Some(to_duration(ran.exit.usage.wall)),
        output_upload_start_timestamp: at(uploads_from),
        output_upload_completed_timestamp: at(now),
        worker_completed_timestamp: at(now),
        auxiliary_metadata: vec![usage::to_any(&ran.exit.usage)],
    }
}

impl Keep {
    /// Whether the exec root of an action that ended well, or did not, is kept.
    pub(crate) fn keeps(self, ended_well: bool) -> bool {
        match self {
            Self::None => false,
            Self::Failed => !ended_well,
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_no_message_holds_is_refused() {
        let with = |bytes| reapi::ActionResult { stdout_raw: vec![0; bytes], ..Default::default() };
        assert_eq!(refused_if_too_large(&with(MAX_RESULT_BYTES - 10)), None);
        let Some(Outcome::Decided(response)) = refused_if_too_large(&with(MAX_RESULT_BYTES)) else {
            panic!("it is taken");
        };
        let response = reapi::ExecuteResponse::decode(response).unwrap();
        assert_eq!(response.status.unwrap().code, Code::FailedPrecondition as i32);
        assert_eq!(response.result, None);
    }
}
