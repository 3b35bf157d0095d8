//! What clients want done, and the executor that does it: it takes time, reads and writes, and fails at times.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bbb_digest::{Digest, Function};
use bbb_reapi::{ToProto as _, proto::reapi::OutputFile};
use bbb_scheduler::{Outcome, Progress, Staged, Task};
use bbb_storage::{ActionCache, ActionResult, Cas, Error};
use bbb_worker::{Executor, Report};
use bytes::Bytes;
use tokio::time;

use crate::{
    judge::Judge,
    net::Host,
    store::Store,
    world::{World, note},
};

/// An action. It is known by the digest of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// Names it in the trace.
    pub(crate) number: u64,
    /// How many inputs it has.
    pub(crate) inputs: usize,
    /// How many outputs.
    pub(crate) outputs: usize,
    /// How long its command runs.
    pub(crate) runs_for: Duration,
}

/// How executors fail, beside what disks and buckets do to them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mishaps {
    /// One task in so many is given up by its worker.
    pub(crate) gives_up: u32,
    /// One task in so many never ends by itself.
    pub(crate) hangs: u32,
}

/// Does the tasks of one node.
#[derive(Debug)]
pub(crate) struct Simulated {
    pub(crate) world: World,
    pub(crate) judge: Arc<Judge>,
    pub(crate) host: Host,
    pub(crate) store: Arc<Store>,
    pub(crate) mishaps: Mishaps,
}

impl Job {
    /// All blobs that a client uploads for it, itself first.
    pub(crate) fn blobs(&self) -> Vec<(Digest, Bytes)> {
        let action = Bytes::from(format!(
            "{} {} {} {}",
            self.number,
            self.inputs,
            self.outputs,
            self.runs_for.as_millis()
        ));
        let inputs = (0..self.inputs).map(|input| format!("input {input} of {}", self.number));
        let inputs = inputs.map(Bytes::from);
        [action].into_iter().chain(inputs).map(|bytes| (of(&bytes), bytes)).collect()
    }

    /// The digest of the action.
    pub(crate) fn digest(&self) -> Digest {
        self.blobs()[0].0
    }

    fn parse(action: &[u8]) -> Option<Self> {
        let mut numbers = str::from_utf8(action).ok()?.split(' ').map(|number| number.parse());
        let mut next = || numbers.next()?.ok();
        let (number, inputs, outputs, millis): (u64, u64, u64, u64) =
            (next()?, next()?, next()?, next()?);
        let runs_for = Duration::from_millis(millis);
        Some(Self { number, inputs: inputs as usize, outputs: outputs as usize, runs_for })
    }

    /// What it brings forth: the same each time.
    fn made(&self) -> Vec<(Digest, Bytes)> {
        let outputs = (0..self.outputs).map(|output| format!("output {output} of {}", self.number));
        outputs.map(Bytes::from).map(|bytes| (of(&bytes), bytes)).collect()
    }

    /// The outputs that an outcome names, if it is one of this job.
    pub(crate) fn read_outcome(&self, outcome: &[u8]) -> Option<Vec<Digest>> {
        let made: Vec<Digest> = self.made().into_iter().map(|(digest, _)| digest).collect();
        (outcome == self.outcome()).then_some(made)
    }

    fn outcome(&self) -> Bytes {
        let lines: Vec<String> = self.made().iter().map(|(digest, _)| digest.to_string()).collect();
        Bytes::from(lines.join("\n"))
    }
}

fn of(bytes: &[u8]) -> Digest {
    Digest::of(Function::Sha256, bytes)
}

impl Simulated {
    async fn run(&self, task: &Task, report: &Report) -> Result<Outcome, Error> {
        report.progress(Progress::Fetching);
        let action = task.submission.key.action;
        let text = self.store.read(action).await?;
        let Some(job) = Job::parse(&text) else {
            self.world.is_wrong("an action's text is not what was stored".to_owned());
            return Ok(Outcome::Failed("unreadable".into()));
        };
        let mut staged = Staged::default();
        for (digest, _) in job.blobs() {
            staged.needed_bytes += digest.size_bytes();
            if !self.store.has_near(digest) {
                staged.fetched_bytes += digest.size_bytes();
            }
            self.store.read(digest).await?;
        }
        report.staged(staged);
        report.turn().await;
        let running = self.judge.began(task, self.host, job.number);
        report.progress(Progress::Running);
        if self.world.one_in(self.mishaps.hangs) {
            note!(self.world, "job {} hangs on {}", job.number, self.host);
            std::future::pending::<()>().await;
        }
        time::sleep(job.runs_for).await;
        if self.world.one_in(self.mishaps.gives_up) {
            return Ok(Outcome::Failed("it was simulated to fail".into()));
        }
        drop(running);
        report.progress(Progress::Uploading);
        let mut result = ActionResult::default();
        for (digest, bytes) in job.made() {
            Cas::put(&*self.store, digest, bytes.into()).await?;
            let digest = Some(digest.to_proto());
            result.output_files.push(OutputFile { digest, ..OutputFile::default() });
        }
        ActionCache::put(&*self.store, action, result).await?;
        Ok(Outcome::Decided(job.outcome()))
    }
}

#[async_trait]
impl Executor for Simulated {
    async fn execute(&self, task: Task, report: Report) -> Outcome {
        match self.run(&task, &report).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated executor")
    }
}
