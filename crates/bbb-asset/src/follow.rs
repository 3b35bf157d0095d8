//! Answers of origins, wherever they send us on to.

use std::time::{Duration, SystemTime};

use bbb_storage::Error;
use http::{HeaderMap, StatusCode, header};
use tokio::time::{self, Instant};
use url::Url;

use crate::{
    Bounds, Origins,
    failure::{Failed, Failure, story},
    origin::{Answer, HopError},
    uri::shown,
};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// How often one URL is tried, and how much longer each pause in between is than the one before.
const ATTEMPTS: u32 = 4;
const LONGER: u32 = 3;

/// What went wrong at a URL that may be tried again.
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
            HopError::Proxy(status) => of_status(status, text, None),
            HopError::Unusable { .. } => Self::last(Failed::Aborted, text),
            HopError::Unreachable { .. } | HopError::Broken { .. } => {
                Self::passing(Failed::Aborted, text)
            }
            HopError::Slow(..) => Self::passing(Failed::TooLate, text),
        }
    }
}

/// The attempts at one URL.
pub(crate) struct Tries<'a> {
    url: &'a Url,
    bounds: &'a Bounds,
    until: Instant,
    count: u32,
    usual_pause: Duration,
}

impl<'a> Tries<'a> {
    /// The first one is made at once, none after `until`.
    pub(crate) fn new(url: &'a Url, bounds: &'a Bounds, until: Instant) -> Self {
        Self { url, bounds, until, count: 1, usual_pause: bounds.first_pause }
    }

    /// Comes back when it is to be tried again.
    ///
    /// # Errors
    /// What went wrong, if it is not to be tried again.
    pub(crate) async fn again(&mut self, trouble: Trouble) -> Result<(), Failure> {
        let pause = trouble.again.map(|asked| asked.unwrap_or(self.usual_pause));
        let may_be_waited_for = |pause: &Duration| {
            *pause <= self.bounds.longest_pause && Instant::now() + *pause < self.until
        };
        let Some(pause) = pause.filter(|_| self.count < ATTEMPTS).filter(may_be_waited_for) else {
            return Err(trouble.failure);
        };
        let (url, attempt) = (shown(self.url), self.count);
        tracing::debug!(url, failure = %trouble.failure, attempt, "trying again");
        time::sleep(pause).await;
        self.count += 1;
        self.usual_pause *= LONGER;
        Ok(())
    }
}

/// Asks for `from`, and follows where it is sent on to, by `headers` for each hop: out of TLS only where what comes is checked.
/// Gives the URL whose answer it is, too. Who says nothing at all is not waited for after `until`: others are to have their time.
pub(crate) async fn follow(
    origins: &Origins,
    from: &Url,
    is_checked: bool,
    headers: impl Fn(&Url) -> HeaderMap,
    until: Instant,
) -> Result<(Url, Answer), Trouble> {
    let followed = hop_on(origins, from, is_checked, headers);
    let Ok(followed) = time::timeout_at(until, followed).await else {
        let what = "there is no answer within its share of the time";
        return Err(Trouble::last(Failed::TooLate, what));
    };
    let (url, mut answer) = followed?;
    answer.hurry(until);
    Ok((url, answer))
}

async fn hop_on(
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
    let who = if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED { "proxy" } else { "origin" };
    let what = format!("the {who} answers {status}");
    let after = answer.header(header::RETRY_AFTER);
    let pause = after.and_then(|after| {
        let now = answer.header(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        pause(after, now.unwrap_or_else(SystemTime::now))
    });
    of_status(status, what, pause)
}

/// What a status means that is no success.
fn of_status(status: StatusCode, what: String, pause: Option<Duration>) -> Trouble {
    let passing = |failed| Trouble { again: Some(pause), ..Trouble::last(failed, what.clone()) };
    match status.as_u16() {
        404 | 410 => Trouble::last(Failed::NotFound, what),
        401 | 403 | 407 | 451 => Trouble::last(Failed::Denied, what),
        429 => passing(Failed::Exhausted),
        408 | 500..=599 => passing(Failed::Aborted),
        _ => Trouble::last(Failed::Aborted, what),
    }
}

/// How long an origin asks to be left alone: seconds, or a date by its own clock (RFC 9110, section 10.2.3).
fn pause(after: &str, now: SystemTime) -> Option<Duration> {
    let after = after.trim();
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(after).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn origins_ask_for_pauses_in_two_ways() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (after, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Mon, 12 Jan 1970 13:47:40 GMT", Some(60)),
            ("Mon, 12 Jan 1970 13:40:00 GMT", Some(0)),
            ("-1", None),
            ("99999999999999999999", None),
            ("soon", None),
        ] {
            assert_eq!(pause(after, now), expected.map(Duration::from_secs), "{after}");
        }
    }
}
