//! The download of one URL: redirects followed, what breaks off taken up again, the bytes checked.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bbb_digest::Function;
use bbb_storage::Disk;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::Instant;
use url::{Position, Url};

use crate::{
    Integrity, Origins, Validators,
    failure::{Failed, Failure},
    follow::{Tries, Trouble, follow, refusal},
    origin::Answer,
    spool::{Spool, SpoolError, Spooled},
};

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
    /// When it is not to be tried again, and who is slow not waited for any more.
    pub(crate) again_until: Instant,
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
    let mut tries = Tries::new(wish.url, origins.bounds(), wish.again_until);
    loop {
        match download.attempt(now).await {
            Ok(Came::Unchanged(validators)) => return Ok(Got::Unchanged(validators)),
            Ok(Came::All(validators)) => {
                let spooled = download.spool.finish().await.map_err(|error| match error {
                    SpoolError::Checksum(_) => Failure::new(Failed::Aborted, error.to_string()),
                    SpoolError::Storage(error) => Failure::Storage(error),
                });
                return Ok(Got::Bytes(spooled?, validators));
            }
            Err(trouble) => tries.again(trouble).await?,
        }
    }
}

enum Came {
    All(Validators),
    Unchanged(Validators),
}

struct Download<'a> {
    origins: &'a Origins,
    wish: &'a Wish<'a>,
    spool: Spool,
    /// How what came can be gone on with.
    resume: Option<Resume>,
}

/// What came of an answer that broke off is the start of just that which has this `ETag` at this place.
#[derive(PartialEq, Eq)]
struct Resume {
    etag: HeaderValue,
    /// Without the query, in which signatures are new each time.
    place: String,
}

impl Download<'_> {
    async fn attempt(&mut self, now: SystemTime) -> Result<Came, Trouble> {
        let goes_on = self.resume.is_some() && self.spool.len() > 0;
        let (place, mut answer) = self.follow(goes_on).await?;
        let resume = resume(&place, &answer);
        let whole_bytes = match answer.status() {
            StatusCode::OK => {
                self.spool.reset().await?;
                None
            }
            StatusCode::PARTIAL_CONTENT if goes_on && resume == self.resume => {
                match rest(answer.header(header::CONTENT_RANGE), self.spool.len()) {
                    Some(whole_bytes) => Some(whole_bytes),
                    None => {
                        return Err(self.begin_anew("it gives another part than it was asked for"));
                    }
                }
            }
            // A server that cannot go on, or has something else by now.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if goes_on => {
                return Err(self.begin_anew("it cannot go on with what broke off"));
            }
            StatusCode::NOT_MODIFIED if self.wish.known.is_some() && !goes_on => {
                return Ok(Came::Unchanged(self.renewed(&answer, now)));
            }
            _ => {
                self.resume = None;
                return Err(refusal(&answer));
            }
        };
        if is_encoded(&answer) && self.wish.integrity.is_none() {
            let what = "it comes encoded, which was not asked for, and there is no checksum to check it by";
            return Err(Trouble::last(Failed::Aborted, what));
        }
        self.resume = resume;
        let validators = validators(&answer, now);
        self.take_in(&mut answer).await?;
        if whole_bytes.is_some_and(|whole_bytes| whole_bytes != self.spool.len()) {
            return Err(self.begin_anew("it gives more or less than the part that it announced"));
        }
        Ok(Came::All(validators))
    }

    /// What came is not gone on with.
    fn begin_anew(&mut self, why: &str) -> Trouble {
        self.resume = None;
        Trouble::passing(Failed::Aborted, why)
    }

    /// The answer, and whose it is.
    async fn follow(&self, goes_on: bool) -> Result<(Url, Answer), Trouble> {
        let Wish { url, integrity, again_until, .. } = self.wish;
        let headers = |url: &Url| self.headers_for(url, goes_on);
        follow(self.origins, url, integrity.is_some(), headers, *again_until).await
    }

    /// The headers for one hop: those of the client to the host that they are meant for, alone.
    fn headers_for(&self, url: &Url, goes_on: bool) -> HeaderMap {
        let mut headers = match url.origin() == self.wish.url.origin() {
            true => self.wish.headers.clone(),
            false => HeaderMap::new(),
        };
        if let Some(resume) = self.resume.as_ref().filter(|_| goes_on) {
            headers.insert(header::RANGE, number_header(&format!("bytes={}-", self.spool.len())));
            headers.insert(header::IF_RANGE, resume.etag.clone());
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
            // What an answer that has no content leaves out stays as it was (RFC 9111, section 3.2).
            renewed.fresh_until = renewed.fresh_until.or(known.fresh_until);
        }
        renewed
    }
}

fn number_header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("bytes=0-"))
}

/// How a download can be gone on with: by a strong `ETag` (RFC 9110, section 13.1.5).
fn resume(place: &Url, answer: &Answer) -> Option<Resume> {
    let etag = answer.headers().get(header::ETAG)?;
    let is_strong = etag.as_bytes().starts_with(b"\"");
    let place = place[..Position::AfterPath].to_owned();
    (is_strong && etag.len() <= MAX_VALIDATOR_BYTES).then(|| Resume { etag: etag.clone(), place })
}

/// How long the whole is of which a part begins at `start` and goes to the end (RFC 9110, section 14.4); none if it is
/// another part, or none.
fn rest(content_range: Option<&str>, start: u64) -> Option<u64> {
    let (part, whole) = content_range?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let [first, last, whole] = [first, last, whole].map(|number| number.trim().parse::<u64>().ok());
    let whole = whole?;
    (first? == start && start < whole && last?.checked_add(1)? == whole).then_some(whole)
}

/// Whether an answer is not just as it was asked for: so coded that a checksum of the asset would not be one of these bytes.
fn is_encoded(answer: &Answer) -> bool {
    let codings = |name, plain: &'static str| {
        let values = answer.headers().get_all(name).iter();
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).any(move |coding| {
            let coding = coding.trim_ascii();
            !coding.is_empty() && !coding.eq_ignore_ascii_case(plain.as_bytes())
        })
    };
    codings(header::CONTENT_ENCODING, "identity") || codings(header::TRANSFER_ENCODING, "chunked")
}

fn validators(answer: &Answer, now: SystemTime) -> Validators {
    let text = |name| {
        let text = answer.header(name).filter(|text| text.len() <= MAX_VALIDATOR_BYTES);
        text.map(str::to_owned)
    };
    Validators {
        etag: text(header::ETAG),
        last_modified: text(header::LAST_MODIFIED),
        fresh_until: fresh_until(answer.headers(), now),
    }
}

/// Until when an answer that came at `now` is fresh, if the origin says so (RFC 9111, section 4.2, for a shared cache).
fn fresh_until(headers: &HeaderMap, now: SystemTime) -> Option<SystemTime> {
    // Several lines are as one.
    let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    let directives = lines.flat_map(|line| line.split(','));
    let directives: Vec<String> =
        directives.map(|directive| directive.trim().to_ascii_lowercase()).collect();
    if directives.iter().any(|part| matches!(&**part, "no-cache" | "no-store" | "private")) {
        return Some(now);
    }
    let seconds = |name: &str| {
        let value = directives.iter().find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.trim_matches('"').parse::<u32>().ok())
    };
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or(""));
    let age = seconds("s-maxage").or_else(|| seconds("max-age"));
    let lifetime = match age {
        Some(age) => Duration::from_secs(age.into()),
        None => {
            // By the origin's own clock. A date that is none means that it is stale.
            let expires = httpdate::parse_http_date(text(header::EXPIRES)?);
            let date = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
            let lived = expires.map(|expires| expires.duration_since(date.unwrap_or(now)));
            lived.map(Result::unwrap_or_default).unwrap_or_default()
        }
    };
    // Other caches have had it for so long.
    let age = text(header::AGE).and_then(|age| age.trim().parse::<u32>().ok()).unwrap_or(0);
    Some(now + lifetime.saturating_sub(Duration::from_secs(age.into())))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderName;

    use super::*;

    #[test]
    fn a_part_is_the_rest_or_nothing() {
        for (range, expected) in [
            ("bytes 5-9/10", Some(10)),
            ("bytes 5-8/10", None),
            ("bytes 4-9/10", None),
            ("bytes 5-9/*", None),
            ("bytes 5-4/5", None),
            ("bytes */10", None),
            ("bytes 5-18446744073709551615/10", None),
            ("bytes 5-9", None),
            ("lines 5-9/10", None),
            ("", None),
        ] {
            assert_eq!(rest(Some(range), 5), expected, "{range}");
        }
        assert_eq!(rest(None, 5), None);
    }

    #[test]
    fn the_origin_says_how_long_it_is_fresh() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: u64| Some(now + Duration::from_secs(seconds));
        // A minute from then.
        let date = "Mon, 12 Jan 1970 13:47:40 GMT";
        for (headers, expected) in [
            (&[][..], None),
            (&[("cache-control", "public")], None),
            (&[("cache-control", "max-age=60")], at(60)),
            (
                &[("cache-control", "public, MAX-AGE=\"60\", s-maxage=70"), ("expires", date)],
                at(70),
            ),
            (&[("cache-control", "no-cache, max-age=60")], at(0)),
            (&[("cache-control", "no-store")], at(0)),
            (&[("cache-control", "public"), ("cache-control", "max-age=60")], at(60)),
            (&[("cache-control", "max-age=60"), ("cache-control", "x, no-cache")], at(0)),
            (&[("cache-control", "max-age=60"), ("age", "50")], at(10)),
            (&[("cache-control", "max-age=60"), ("age", "70")], at(0)),
            (&[("cache-control", "max-age=60"), ("age", "x")], at(60)),
            (&[("expires", date)], at(60)),
            (&[("expires", date), ("age", "20")], at(40)),
            (&[("expires", date), ("date", "Mon, 12 Jan 1970 13:47:10 GMT")], at(30)),
            (&[("expires", date), ("date", "Mon, 12 Jan 1970 14:00:00 GMT")], at(0)),
            (&[("expires", "0")], at(0)),
            (&[("cache-control", "max-age=x")], None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(fresh_until(&map, now), expected, "{headers:?}");
        }
    }
}
