//! The download of one URL: redirects followed, what breaks off taken up again, the bytes checked.

use std::{
    io::ErrorKind,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_digest::Function;
use bbb_storage::{Disk, Error};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time;
use url::Url;

use crate::{
    Integrity, Origins, Validators,
    failure::{Failed, Failure, story},
    origin::{Answer, HopError},
    spool::{Spool, SpoolError, Spooled},
    uri::shown,
};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// How often one URL is tried, and how long to wait before the second time; later on longer.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// The longest pause that an origin may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(20);

/// The longest validator that is kept, in bytes.
const MAX_VALIDATOR_BYTES: usize = 1 << 10;

/// What is to be downloaded.
pub(crate) struct Wish<'a> {
    pub(crate) url: &'a Url,
    /// What the client wants sent along, to this host alone.
    pub(crate) headers: HeaderMap,
    pub(crate) function: Function,
    pub(crate) integrity: Option<&'a Integrity>,
    /// What a copy came with that is to be asked about.
    pub(crate) known: Option<&'a Validators>,
    /// The most that it may have.
    pub(crate) limit_bytes: u64,
}

/// What became of it.
pub(crate) enum Got {
    /// The bytes.
    Bytes(Spooled, Validators),
    /// The copy that is known is still right.
    Unchanged(Validators),
}

/// A download that may be tried again.
struct Trouble {
    failure: Failure,
    /// None if it is of no use; else when, if the origin said so.
    again: Option<Option<Duration>>,
}

impl Trouble {
    fn last(failed: Failed, what: impl Into<String>) -> Self {
        Self { failure: Failure::new(failed, what), again: None }
    }

    fn passing(failed: Failed, what: impl Into<String>) -> Self {
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

/// Downloads what is wished for.
pub(crate) async fn download(
    origins: &Origins,
    disk: &Arc<Disk>,
    wish: &Wish<'_>,
    now: SystemTime,
) -> Result<Got, Failure> {
    let spool = Spool::new(disk, wish.function, wish.integrity.cloned()).await;
    let mut download =
        Download { origins, wish, spool: spool.map_err(Failure::Storage)?, resume: None };
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let trouble = match download.attempt(now).await {
            Ok(Came::Unchanged(validators)) => return Ok(Got::Unchanged(validators)),
            Ok(Came::All(validators)) => {
                let spooled = download.spool.finish().await.map_err(|error| match error {
                    SpoolError::Checksum(_) => Failure::new(Failed::Aborted, error.to_string()),
                    SpoolError::Storage(error) => Failure::Storage(error),
                });
                return Ok(Got::Bytes(spooled?, validators));
            }
            Err(trouble) => trouble,
        };
        let Some(asked) = trouble.again.filter(|_| attempt < ATTEMPTS) else {
            return Err(trouble.failure);
        };
        tracing::debug!(url = shown(wish.url), failure = %trouble.failure, attempt, "trying again");
        time::sleep(asked.unwrap_or(pause).min(MAX_PAUSE)).await;
        pause *= 3;
    }
    Err(Failure::new(Failed::Aborted, "it was tried too often"))
}

enum Came {
    All(Validators),
    Unchanged(Validators),
}

struct Download<'a> {
    origins: &'a Origins,
    wish: &'a Wish<'a>,
    spool: Spool,
    /// By which validator what came can be gone on with.
    resume: Option<HeaderValue>,
}

impl Download<'_> {
    async fn attempt(&mut self, now: SystemTime) -> Result<Came, Trouble> {
        let mut answer = self.follow().await?;
        let status = answer.status();
        match status {
            StatusCode::OK => self.spool.reset().await?,
            StatusCode::PARTIAL_CONTENT if self.goes_on(&answer) => {}
            StatusCode::NOT_MODIFIED if self.wish.known.is_some() => {
                return Ok(Came::Unchanged(self.renewed(&answer, now)));
            }
            _ => {
                // The next attempt begins anew.
                self.resume = None;
                return Err(refusal(&answer));
            }
        }
        let is_encoded = answer.header(header::CONTENT_ENCODING).is_some_and(|encoding| {
            !encoding.trim().is_empty() && !encoding.trim().eq_ignore_ascii_case("identity")
        });
        if is_encoded && self.wish.integrity.is_none() {
            let what = "it comes encoded, which was not asked for, and there is no checksum to check it by";
            return Err(Trouble::last(Failed::Aborted, what));
        }
        self.resume = strong_validator(&answer);
        let validators = validators(&answer, now);
        self.take_in(&mut answer).await?;
        Ok(Came::All(validators))
    }

    /// Asks, and follows where it is sent on to.
    async fn follow(&self) -> Result<Answer, Trouble> {
        let mut url = self.wish.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.origins.get(&url, self.headers_for(&url)).await.map_err(|error| {
                let mut trouble = Trouble::from(error);
                if url != *self.wish.url {
                    trouble.failure =
                        trouble.failure.after(&format!("redirected to {}", shown(&url)));
                }
                trouble
            })?;
            if !is_redirect(answer.status()) {
                return Ok(answer);
            }
            let next = answer.header(header::LOCATION).and_then(|location| url.join(location).ok());
            let Some(mut next) = next else {
                return Err(Trouble::last(Failed::Aborted, "it redirects to nowhere"));
            };
            if !matches!(next.scheme(), "http" | "https") {
                let what = format!("it redirects to {}, which is no http or https", shown(&next));
                return Err(Trouble::last(Failed::Denied, what));
            }
            if url.scheme() == "https" && next.scheme() == "http" && self.wish.integrity.is_none() {
                let what = format!(
                    "it redirects from https to {}, and there is no checksum",
                    shown(&next)
                );
                return Err(Trouble::last(Failed::Denied, what));
            }
            // What lets somebody in is the client's to send.
            let _ = (next.set_username(""), next.set_password(None));
            next.set_fragment(None);
            url = next;
        }
        let what = format!("it redirects more than {MAX_REDIRECTS} times");
        Err(Trouble::last(Failed::Aborted, what))
    }

    /// The headers for one hop: those of the client to the host that they are meant for, alone.
    fn headers_for(&self, url: &Url) -> HeaderMap {
        let mut headers = match url.origin() == self.wish.url.origin() {
            true => self.wish.headers.clone(),
            false => HeaderMap::new(),
        };
        if let Some(resume) = &self.resume
            && self.spool.len() > 0
        {
            headers.insert(header::RANGE, number_header(&format!("bytes={}-", self.spool.len())));
            headers.insert(header::IF_RANGE, resume.clone());
        } else if let Some(known) = self.wish.known {
            let both = [
                (header::IF_NONE_MATCH, &known.etag),
                (header::IF_MODIFIED_SINCE, &known.last_modified),
            ];
            for (name, value) in both {
                if let Some(value) =
                    value.as_ref().and_then(|value| HeaderValue::from_str(value).ok())
                {
                    headers.insert(name, value);
                }
            }
        }
        headers
    }

    /// Whether a partial answer is what comes behind that which is there.
    fn goes_on(&self, answer: &Answer) -> bool {
        let start = answer
            .header(header::CONTENT_RANGE)
            .and_then(|range| range.strip_prefix("bytes "))
            .and_then(|range| range.split_once('-'))
            .and_then(|(start, _)| start.trim().parse::<u64>().ok());
        self.resume.is_some() && start == Some(self.spool.len())
    }

    async fn take_in(&mut self, answer: &mut Answer) -> Result<(), Trouble> {
        let limit_bytes = self.wish.limit_bytes;
        let too_large = || {
            let what = format!("it is larger than the {limit_bytes} bytes that are taken");
            Trouble::last(Failed::Exhausted, what)
        };
        let announced =
            answer.header(header::CONTENT_LENGTH).and_then(|len| len.parse::<u64>().ok());
        if announced.is_some_and(|len| len.saturating_add(self.spool.len()) > limit_bytes) {
            return Err(too_large());
        }
        loop {
            match answer.next().await {
                Ok(Some(piece)) => {
                    if self.spool.len() + piece.len() as u64 > limit_bytes {
                        return Err(too_large());
                    }
                    self.spool.write(piece).await?;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    let mut trouble = Trouble::from(error);
                    let after = format!("after {} bytes", self.spool.len());
                    trouble.failure = trouble.failure.after(&after);
                    return Err(trouble);
                }
            }
        }
    }

    /// What is known of a copy that is still right.
    fn renewed(&self, answer: &Answer, now: SystemTime) -> Validators {
        let mut renewed = validators(answer, now);
        if let Some(known) = self.wish.known {
            renewed.etag = renewed.etag.or_else(|| known.etag.clone());
            renewed.last_modified = renewed.last_modified.or_else(|| known.last_modified.clone());
        }
        renewed
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// What an answer says that is not the asset. Its body, whatever it is, is not the asset either.
fn refusal(answer: &Answer) -> Trouble {
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

fn number_header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("bytes=0-"))
}

/// By what a download can be gone on with: a strong `ETag` (RFC 9110, section 13.1.5).
fn strong_validator(answer: &Answer) -> Option<HeaderValue> {
    let etag = answer.headers().get(header::ETAG)?;
    let is_strong = etag.as_bytes().starts_with(b"\"");
    (is_strong && etag.len() <= MAX_VALIDATOR_BYTES).then(|| etag.clone())
}

fn validators(answer: &Answer, now: SystemTime) -> Validators {
    let text = |name| {
        let text = answer.header(name).filter(|text| text.len() <= MAX_VALIDATOR_BYTES);
        text.map(str::to_owned)
    };
    Validators {
        etag: text(header::ETAG),
        last_modified: text(header::LAST_MODIFIED),
        fresh_until: fresh_until(
            answer.header(header::CACHE_CONTROL),
            answer.header(header::EXPIRES),
            now,
        ),
    }
}

/// Until when an answer is fresh, if the origin says so (RFC 9111, section 4.2.1, for a shared cache).
fn fresh_until(
    control: Option<&str>,
    expires: Option<&str>,
    now: SystemTime,
) -> Option<SystemTime> {
    let directives =
        control.unwrap_or_default().split(',').map(|part| part.trim().to_ascii_lowercase());
    let directives: Vec<String> = directives.collect();
    if directives.iter().any(|part| matches!(&**part, "no-cache" | "no-store" | "private")) {
        return Some(now);
    }
    let seconds = |name: &str| {
        let value = directives.iter().find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.trim_matches('"').parse::<u32>().ok())
    };
    if let Some(age) = seconds("s-maxage").or_else(|| seconds("max-age")) {
        return Some(now + Duration::from_secs(age.into()));
    }
    // A date that is none means that it is stale.
    expires.map(|expires| httpdate::parse_http_date(expires).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_origin_says_how_long_it_is_fresh() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: u64| Some(now + Duration::from_secs(seconds));
        let date = "Mon, 12 Jan 1970 13:47:40 GMT";
        for (control, expires, expected) in [
            (None, None, None),
            (Some("public"), None, None),
            (Some("max-age=60"), None, at(60)),
            (Some("public, MAX-AGE=\"60\", s-maxage=70"), Some(date), at(70)),
            (Some("no-cache, max-age=60"), None, at(0)),
            (Some("no-store"), None, at(0)),
            (None, Some(date), at(60)),
            (None, Some("0"), at(0)),
            (Some("max-age=x"), None, None),
        ] {
            assert_eq!(fresh_until(control, expires, now), expected, "{control:?} {expires:?}");
        }
    }
}
