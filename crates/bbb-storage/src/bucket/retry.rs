//! Faults of the bucket: what they mean to the caller, and how often a request is sent again.
//!
//! This is the only place that retries. One operation has one deadline; attempts within it are spaced
//! by a growing, jittered pause and have a time-out of their own, so that a lost answer does not use it
//! up. All requests may be sent twice: objects are named by what they hold.

use std::{error::Error as StdError, future::Future, io, time::Duration};

use bbb_digest::Digest;
use tokio::time::{self, Instant};

use crate::Error;

use super::{
    stats::{Counters, Request, add},
    wire::ServerFault,
};

/// The longest that one attempt may take, bodies apart.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// What a body may take in addition: a second for so many bytes. A thin line that all transfers share is
/// no fault.
const SLOWEST_BYTES_PER_S: u64 = 256 << 10;

/// The pause after the first fault, and after the server asked to slow down.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const FIRST_PAUSE_WHEN_THROTTLED: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Why an operation on the bucket did not succeed, by what the caller does next.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    /// There is no such object.
    #[error("there is no such object")]
    Missing,
    /// The condition of the request does not hold: the object is there, or has changed.
    #[error("the object is there already, or has changed")]
    Condition,
    /// There is no room in the bucket.
    #[error("the bucket is full: {0}")]
    Full(String),
    /// There is no such bucket.
    #[error("there is no such bucket; check --bucket and --endpoint: {0}")]
    NoBucket(String),
    /// The server will not do it for us, now or later.
    #[error(
        "the bucket refuses it; check the credentials' permissions, --bucket and --region: {0}"
    )]
    Refused(String),
    /// Nobody knows; tried until the deadline.
    #[error("the bucket did not answer in {tries} tries: {last}")]
    Unavailable {
        /// How often it was sent.
        tries: u32,
        /// What the last one ended in.
        last: String,
    },
}

impl Failure {
    /// What was tried once and is not to be tried again.
    pub(super) fn of(error: object_store::Error) -> Self {
        Self::new(Verdict::of(&error), chain(&error))
    }

    /// Something that nobody knows, for another reason than what the bucket said.
    pub(super) fn unknown(what: impl Into<String>) -> Self {
        Self::Unavailable { tries: 1, last: what.into() }
    }

    fn new(verdict: Verdict, last: String) -> Self {
        match verdict {
            Verdict::Missing => Self::Missing,
            Verdict::Condition => Self::Condition,
            Verdict::Full => Self::Full(last),
            Verdict::NoBucket => Self::NoBucket(last),
            Verdict::Refused => Self::Refused(last),
            Verdict::Throttled | Verdict::Fault => Self::Unavailable { tries: 1, last },
        }
    }

    /// The same as the seams tell it. `Missing` is not to come here where it means a missing blob.
    pub(super) fn into_error(self, what: &str, digest: Digest) -> Error {
        match self {
            Self::Full(what) => Error::Full { size_bytes: digest.size_bytes(), what },
            other => Error::unavailable(format!("{what} {digest}"), io::Error::other(other)),
        }
    }
}

/// What an error of the store means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Missing,
    Condition,
    Full,
    NoBucket,
    Refused,
    /// To be sent again, later.
    Throttled,
    /// To be sent again.
    Fault,
}

impl Verdict {
    /// Reads an error by its types, never by its text.
    pub(super) fn of(error: &object_store::Error) -> Self {
        let mut source: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(fault) = cause.downcast_ref::<ServerFault>() {
                return fault.verdict();
            }
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => return Self::Full,
                    io::ErrorKind::PermissionDenied => return Self::Refused,
                    _ => {}
                }
            }
            source = cause.source();
        }
        match error {
            object_store::Error::NotFound { .. } => Self::Missing,
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. }
            | object_store::Error::NotModified { .. } => Self::Condition,
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. }
            | object_store::Error::NotSupported { .. }
            | object_store::Error::NotImplemented { .. }
            | object_store::Error::InvalidPath { .. }
            | object_store::Error::UnknownConfigurationKey { .. } => Self::Refused,
            _ => Self::Fault,
        }
    }
}

/// Sends a request until it succeeds, cannot succeed, or the time is up. `attempt` makes it anew; its
/// body, of whichever way, has about `body_bytes`.
pub(super) async fn run<T, F>(
    deadline: Duration,
    counters: &Counters,
    request: Request,
    body_bytes: u64,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = object_store::Result<T>>,
{
    let ends = Instant::now() + deadline;
    let longest = ATTEMPT_TIMEOUT + Duration::from_secs(body_bytes / SLOWEST_BYTES_PER_S);
    let mut tries = 0;
    loop {
        tries += 1;
        counters.request(request);
        let time = longest.min(ends - Instant::now());
        let (last, verdict) = match time::timeout(time, attempt()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => (chain(&error), Verdict::of(&error)),
            Err(_) => (format!("no answer within {time:?}"), Verdict::Fault),
        };
        match verdict {
            Verdict::Throttled | Verdict::Fault => add(&counters.faults, 1),
            other => return Err(Failure::new(other, last)),
        }
        let pause = pause(tries, verdict);
        if Instant::now() + pause >= ends {
            return Err(Failure::Unavailable { tries, last });
        }
        tracing::debug!(?request, tries, last, "fault of the bucket: once more");
        add(&counters.retries, 1);
        time::sleep(pause).await;
    }
}

/// How long to wait after so many tries: a random part of a time that doubles.
fn pause(tries: u32, verdict: Verdict) -> Duration {
    let first = match verdict {
        Verdict::Throttled => FIRST_PAUSE_WHEN_THROTTLED,
        _ => FIRST_PAUSE,
    };
    let longest = first.saturating_mul(1 << (tries - 1).min(10)).min(MAX_PAUSE);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Many errors say their cause themselves.
        if !line.contains(&said) {
            line = format!("{line}: {said}");
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn generic(source: impl StdError + Send + Sync + 'static) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: Box::new(source) }
    }

    fn server(status: u16, code: &str) -> object_store::Error {
        generic(ServerFault { status, code: code.to_owned(), message: String::new() })
    }

    #[test]
    fn errors_are_told_apart_by_what_to_do_next() {
        let missing =
            object_store::Error::NotFound { path: String::new(), source: "absent".into() };
        assert_eq!(Verdict::of(&missing), Verdict::Missing);
        assert_eq!(Verdict::of(&server(404, "NoSuchBucket")), Verdict::NoBucket);
        assert_eq!(Verdict::of(&server(404, "NoSuchUpload")), Verdict::Missing);
        assert_eq!(Verdict::of(&server(403, "AccessDenied")), Verdict::Refused);
        assert_eq!(Verdict::of(&server(403, "QuotaExceeded")), Verdict::Full);
        assert_eq!(Verdict::of(&server(507, "")), Verdict::Full);
        assert_eq!(Verdict::of(&server(503, "SlowDown")), Verdict::Throttled);
        assert_eq!(Verdict::of(&server(429, "")), Verdict::Throttled);
        assert_eq!(Verdict::of(&server(500, "InternalError")), Verdict::Fault);
        assert_eq!(Verdict::of(&server(400, "RequestTimeout")), Verdict::Fault);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Verdict::of(&generic(full)), Verdict::Full);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(Verdict::of(&generic(reset)), Verdict::Fault);
    }

    #[tokio::test(start_paused = true)]
    async fn faults_are_tried_again_until_the_deadline() {
        let counters = Counters::default();
        let tries = Cell::new(0);
        let second = run(Duration::from_secs(50), &counters, Request::Get, 0, || {
            tries.set(tries.get() + 1);
            let tries = tries.get();
            async move { if tries < 3 { Err(server(500, "InternalError")) } else { Ok(tries) } }
        });
        assert_eq!(second.await.unwrap(), 3);
        let began = Instant::now();
        let never = run(Duration::from_secs(50), &counters, Request::Get, 0, || async {
            Err::<(), _>(server(503, "SlowDown"))
        });
        let failure = never.await.unwrap_err();
        assert!(matches!(failure, Failure::Unavailable { tries, .. } if tries > 8), "{failure}");
        assert!(began.elapsed() <= Duration::from_secs(50));
        // A server that never answers does not use up the deadline at once.
        let silent = run(Duration::from_secs(50), &counters, Request::Get, 0, || {
            std::future::pending::<object_store::Result<()>>()
        });
        let failure = silent.await.unwrap_err();
        assert!(matches!(failure, Failure::Unavailable { tries: 3, .. }), "{failure}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_succeed_is_sent_once() {
        for (error, tell) in [(403, "refuses"), (507, "full")] {
            let counters = Counters::default();
            let refused = run(Duration::from_secs(50), &counters, Request::Put, 0, || async move {
                Err::<(), _>(server(error, "AccessDenied"))
            });
            let failure = refused.await.unwrap_err();
            assert!(failure.to_string().contains(tell), "{failure}");
            assert_eq!(counters.stats().put, 1);
        }
    }
}
