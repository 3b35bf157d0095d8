//! Answers of origins, wherever they send us on to.

use std::{io::ErrorKind, time::Duration};

use bbb_storage::Error;
use http::{HeaderMap, StatusCode, header};
use url::Url;

use crate::{
    Origins,
    failure::{Failed, Failure, story},
    origin::{Answer, HopError},
    uri::shown,
};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// A download that may be tried again.
pub(crate) struct Trouble {
    pub(crate) failure: Failure,
    /// None if it is of no use; else when, if the origin said so.
    pub(crate) again: Option<Option<Duration>>,
}

impl Trouble {
    pub(crate) fn last(failed: Failed, what: impl Into<String>) -> Self {
        Self { failure: Failure::new(failed, what), again: None }
    }

    pub(crate) fn passing(failed: Failed, what: impl Into<String>) -> Self {
        Self { failure: Failure::new(failed, what), again: Some(None) }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { failure: Failure::Storage(error), again: None }
    }
}

impl From<HopError> for Trouble {
    fn from(error: HopError) -> Self {
        let text = story(&error);
        match error {
            HopError::Refused(_) => Self::last(Failed::Denied, text),
            // So TLS says that something is wrong, and not merely broken off.
            HopError::Unreachable { source, .. } if source.kind() == ErrorKind::InvalidData => {
                Self::last(Failed::Aborted, text)
            }
            HopError::Unreachable { .. } | HopError::Broken { .. } => {
                Self::passing(Failed::Aborted, text)
            }
            HopError::Slow(..) => Self::passing(Failed::TooLate, text),
        }
    }
}

/// Asks for `from`, and follows where it is sent on to, by `headers` for each hop: out of TLS only where what comes is checked.
/// Gives the URL whose answer it is, too.
pub(crate) async fn follow(
    origins: &Origins,
    from: &Url,
    is_checked: bool,
    headers: impl Fn(&Url) -> HeaderMap,
) -> Result<(Url, Answer), Trouble> {
    let mut url = from.clone();
    for _ in 0..=MAX_REDIRECTS {
        let answer = origins.get(&url, headers(&url)).await.map_err(|error| {
            let mut trouble = Trouble::from(error);
            if url != *from {
                trouble.failure = trouble.failure.after(&format!("redirected to {}", shown(&url)));
            }
            trouble
        })?;
        if !is_redirect(answer.status()) {
            return Ok((url, answer));
        }
        url = next(&url, &answer, is_checked)
            .map_err(|(failed, what)| Trouble::last(failed, what))?;
    }
    let what = format!("it redirects more than {MAX_REDIRECTS} times");
    Err(Trouble::last(Failed::Aborted, what))
}

/// Where an answer sends us on to.
fn next(url: &Url, answer: &Answer, is_checked: bool) -> Result<Url, (Failed, String)> {
    let next = answer.header(header::LOCATION).and_then(|location| url.join(location).ok());
    let Some(mut next) = next else {
        return Err((Failed::Aborted, "it redirects to nowhere".to_owned()));
    };
    if !matches!(next.scheme(), "http" | "https") {
        let what = format!("it redirects to {}, which is no http or https", shown(&next));
        return Err((Failed::Denied, what));
    }
    if url.scheme() == "https" && next.scheme() == "http" && !is_checked {
        let what = format!("it redirects from https to {}, and there is no checksum", shown(&next));
        return Err((Failed::Denied, what));
    }
    // What lets somebody in is the client's to send.
    let _ = (next.set_username(""), next.set_password(None));
    next.set_fragment(None);
    Ok(next)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// What an answer says that is not the asset. Its body, whatever it is, is not the asset either.
pub(crate) fn refusal(answer: &Answer) -> Trouble {
    let status = answer.status();
    let what = format!("the origin answers {status}");
    let pause = answer.header(header::RETRY_AFTER).and_then(|after| after.trim().parse().ok());
    let pause = pause.map(Duration::from_secs);
    match status.as_u16() {
        404 | 410 => Trouble::last(Failed::NotFound, what),
        401 | 403 | 407 | 451 => Trouble::last(Failed::Denied, what),
        429 => Trouble { again: Some(pause), ..Trouble::last(Failed::Exhausted, what) },
        408 | 500 | 502 | 503 | 504 => {
            Trouble { again: Some(pause), ..Trouble::last(Failed::Aborted, what) }
        }
        // A server that cannot go on: it is asked for the whole.
        206 | 416 => Trouble::passing(Failed::Aborted, what),
        _ => Trouble::last(Failed::Aborted, what),
    }
}
