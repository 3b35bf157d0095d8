//! The download of one URL: redirects followed, what breaks off taken up again, the bytes checked.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_digest::Function;
use bbb_storage::Disk;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time;
use url::Url;

use crate::{
    Integrity, Origins, Validators,
    failure::{Failed, Failure},
    follow::{Trouble, follow, refusal},
    origin::Answer,
    spool::{Spool, SpoolError, Spooled},
    uri::shown,
};

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

    async fn follow(&self) -> Result<Answer, Trouble> {
        let is_checked = self.wish.integrity.is_some();
        let headers = |url: &Url| self.headers_for(url);
        follow(self.origins, self.wish.url, is_checked, headers).await.map(|(_, answer)| answer)
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
