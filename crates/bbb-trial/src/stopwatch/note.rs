//! What is noted of an action: a line of `name=value`.

use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;

use super::client::End;

/// An action that has ended. Moments are in milliseconds since 1970, by this machine's clock and by the worker's.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Note {
    /// Which of the load's actions it is.
    pub index: u64,
    /// When the client began with it.
    pub submitted: u64,
    /// When the command of the run that counts was started; 0 if nobody says.
    pub started: u64,
    /// When the client knew its end.
    pub ended: u64,
    /// Who ran it.
    pub worker: String,
    /// How often it was executed, and waited for after a connection broke.
    pub executed: u32,
    /// How often it was waited for after a connection broke.
    pub waited: u32,
    /// Whether the action cache had it.
    pub is_cached: bool,
    /// What is wrong with it; without spaces.
    pub failure: Option<String>,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Note {
    pub(super) fn begin(index: u64) -> Self {
        Self { index, submitted: now(), ..Self::default() }
    }

    pub(super) fn end(&mut self, end: &End) {
        self.ended = now();
        self.is_cached = end.is_cached;
        self.worker.clone_from(&end.metadata.worker);
        if let Some(started) = end.metadata.execution_start_timestamp {
            let millis = started.seconds * 1000 + i64::from(started.nanos) / 1_000_000;
            self.started = u64::try_from(millis).unwrap_or(0);
        }
        if end.status.code != 0 {
            let code = tonic::Code::from(end.status.code);
            self.fail(&format!("{code:?}: {}", end.status.message));
        } else if end.exit_code != 0 {
            self.fail(&format!("exit code {}", end.exit_code));
        }
    }

    pub(super) fn fail(&mut self, why: &str) {
        self.ended = now();
        self.failure = Some(why.split_whitespace().collect::<Vec<_>>().join("_"));
    }

    /// Whether it ended as it should have.
    pub const fn is_good(&self) -> bool {
        self.failure.is_none()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, submitted, started, ended, worker, executed, waited, .. } = self;
        write!(
            f,
            "action={index} submitted={submitted} started={started} ended={ended} worker={worker} \
             executed={executed} waited={waited} cached={}",
            self.is_cached
        )?;
        self.failure.as_ref().map_or(Ok(()), |failure| write!(f, " failure={failure}"))
    }
}

impl FromStr for Note {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let mut note = Self::default();
        for word in line.split_whitespace() {
            let (name, value) = word.split_once('=').context("a word is NAME=VALUE")?;
            match name {
                "action" => note.index = value.parse()?,
                "submitted" => note.submitted = value.parse()?,
                "started" => note.started = value.parse()?,
                "ended" => note.ended = value.parse()?,
                "worker" => note.worker = value.to_owned(),
                "executed" => note.executed = value.parse()?,
                "waited" => note.waited = value.parse()?,
                "cached" => note.is_cached = value.parse()?,
                "failure" => note.failure = Some(value.to_owned()),
                _ => anyhow::bail!("'{name}' is no part of a note"),
            }
        }
        Ok(note)
    }
}
