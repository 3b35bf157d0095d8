//! Records: which content an asset is, and what is known of it.
//!
//! A record has the form of an `ActionResult`, as the pages of logs have: so it has a result's checksum and lifetime, and
//! is served only while all that it names is there. What it knows stands in the place of the result's output.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bbb_digest::{Digest, Function};
use bbb_reapi::{ToProto as _, digest, proto::reapi};
use prost::Message as _;

use crate::Kind;

/// The version of the facts. A newer one is not understood, and so not there.
const VERSION: u32 = 1;

/// Which content an asset is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// The blob, or the root of the tree.
    pub content: Digest,
    /// Other blobs that are to stay as long.
    pub blobs: Vec<Digest>,
    /// Other trees that are to stay as long.
    pub directories: Vec<Digest>,
    /// When it was pushed, or when it was begun to be fetched.
    pub since: SystemTime,
    /// When it is not to be given any more.
    pub expires: Option<SystemTime>,
    /// How it came.
    pub origin: Origin,
}

/// How an asset came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client pushed it.
    Pushed,
    /// It was fetched.
    Fetched(Validators),
}

/// What an origin said by which a copy is found out to be still right (RFC 9110, section 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
    /// Until when it need not be asked again; for ever if it did not say.
    pub fresh_until: Option<SystemTime>,
}

/// What stands in a record besides digests.
#[derive(Clone, PartialEq, prost::Message)]
struct Facts {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bool, tag = "2")]
    is_fetched: bool,
    #[prost(uint64, tag = "3")]
    since_ms: u64,
    #[prost(uint64, optional, tag = "4")]
    expires_ms: Option<u64>,
    #[prost(string, optional, tag = "5")]
    etag: Option<String>,
    #[prost(string, optional, tag = "6")]
    last_modified: Option<String>,
    #[prost(uint64, optional, tag = "7")]
    fresh_until_ms: Option<u64>,
}

impl Record {
    /// The form in which it is stored.
    pub(crate) fn to_result(&self) -> reapi::ActionResult {
        let mut facts = Facts {
            version: VERSION,
            since_ms: to_ms(self.since),
            expires_ms: self.expires.map(to_ms),
            ..Facts::default()
        };
        if let Origin::Fetched(validators) = &self.origin {
            facts.is_fetched = true;
            facts.etag.clone_from(&validators.etag);
            facts.last_modified.clone_from(&validators.last_modified);
            facts.fresh_until_ms = validators.fresh_until.map(to_ms);
        }
        let file = |digest: &Digest| reapi::OutputFile {
            digest: Some(digest.to_proto()),
            ..reapi::OutputFile::default()
        };
        let directory = |digest: &Digest| reapi::OutputDirectory {
            root_directory_digest: Some(digest.to_proto()),
            ..reapi::OutputDirectory::default()
        };
        let mut files: Vec<_> = self.blobs.iter().map(file).collect();
        let mut directories: Vec<_> = self.directories.iter().map(directory).collect();
        match self.kind {
            Kind::Blob => files.insert(0, file(&self.content)),
            Kind::Directory => directories.insert(0, directory(&self.content)),
        }
        reapi::ActionResult {
            output_files: files,
            output_directories: directories,
            stdout_raw: facts.encode_to_vec(),
            ..reapi::ActionResult::default()
        }
    }

    /// What a stored form holds; none if it is not one of ours.
    pub(crate) fn of_result(
        kind: Kind,
        function: Function,
        result: &reapi::ActionResult,
    ) -> Option<Self> {
        let facts =
            Facts::decode(&*result.stdout_raw).ok().filter(|facts| facts.version == VERSION)?;
        let parse = |wire: &Option<reapi::Digest>| digest(function, wire.as_ref()?).ok();
        let files = result.output_files.iter().map(|file| parse(&file.digest));
        let mut blobs: Vec<Digest> = files.collect::<Option<_>>()?;
        let roots = result.output_directories.iter();
        let roots = roots.map(|directory| parse(&directory.root_directory_digest));
        let mut directories: Vec<Digest> = roots.collect::<Option<_>>()?;
        let first = match kind {
            Kind::Blob => &mut blobs,
            Kind::Directory => &mut directories,
        };
        if first.is_empty() {
            return None;
        }
        let content = first.remove(0);
        let origin = match facts.is_fetched {
            false => Origin::Pushed,
            true => Origin::Fetched(Validators {
                etag: facts.etag,
                last_modified: facts.last_modified,
                fresh_until: facts.fresh_until_ms.map(of_ms),
            }),
        };
        Some(Self {
            kind,
            content,
            blobs,
            directories,
            since: of_ms(facts.since_ms),
            expires: facts.expires_ms.map(of_ms),
            origin,
        })
    }

    /// What may be done with it `now` for a client that takes what is no older than `oldest`. `is_checked` tells whether a
    /// checksum says which bytes are meant, so that no origin can have others.
    pub(crate) fn standing(
        &self,
        now: SystemTime,
        oldest: Option<SystemTime>,
        is_checked: bool,
    ) -> Standing {
        if self.expires.is_some_and(|expires| expires <= now) {
            return Standing::Gone;
        }
        let is_too_old = oldest.is_some_and(|oldest| self.since < oldest);
        match &self.origin {
            Origin::Pushed if is_too_old => Standing::Gone,
            Origin::Pushed => Standing::Good,
            Origin::Fetched(validators) => {
                let is_fresh = is_checked || validators.fresh_until.is_none_or(|until| now < until);
                if is_fresh && !is_too_old { Standing::Good } else { Standing::Stale }
            }
        }
    }
}

/// What may be done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Answer with it.
    Good,
    /// Ask the origin whether it is still right.
    Stale,
    /// Nothing.
    Gone,
}

/// Milliseconds since 1970.
fn to_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn of_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, origin: Origin) -> Record {
        let digest = |text: &str| Digest::of(Function::Blake3, text.as_bytes());
        Record {
            kind,
            content: digest("content"),
            blobs: vec![digest("a"), digest("b")],
            directories: vec![digest("c")],
            since: at(100),
            expires: Some(at(200)),
            origin,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn validators(fresh_until: Option<u64>) -> Origin {
        let etag = Some("\"x\"".to_owned());
        Origin::Fetched(Validators { etag, last_modified: None, fresh_until: fresh_until.map(at) })
    }

    #[test]
    fn a_record_is_read_back_as_what_it_was() {
        for kind in [Kind::Blob, Kind::Directory] {
            for origin in [Origin::Pushed, validators(Some(150)), validators(None)] {
                let record = record(kind, origin);
                let result = record.to_result();
                assert_eq!(Record::of_result(kind, Function::Blake3, &result), Some(record));
                assert_eq!(Record::of_result(kind, Function::Sha1, &result), None);
            }
        }
        let nothing = reapi::ActionResult::default();
        assert_eq!(Record::of_result(Kind::Blob, Function::Blake3, &nothing), None);
    }

    #[test]
    fn age_expiry_and_freshness_decide() {
        use Standing::{Gone, Good, Stale};
        let pushed = record(Kind::Blob, Origin::Pushed);
        let fetched = record(Kind::Blob, validators(Some(150)));
        let unlimited = record(Kind::Blob, validators(None));
        // record, now, oldest, checked
        let cases = [
            (&pushed, 199, None, false, Good),
            (&pushed, 200, None, false, Gone),
            (&pushed, 150, Some(100), false, Good),
            (&pushed, 150, Some(101), false, Gone),
            (&fetched, 149, None, false, Good),
            (&fetched, 150, None, false, Stale),
            (&fetched, 150, None, true, Good),
            (&fetched, 149, Some(101), true, Stale),
            (&fetched, 200, None, true, Gone),
            (&unlimited, 199, None, false, Good),
            (&unlimited, 199, Some(3800), false, Stale),
        ];
        for (record, now, oldest, is_checked, expected) in cases {
            let found = record.standing(at(now), oldest.map(at), is_checked);
            assert_eq!(found, expected, "{record:?} at {now}, {oldest:?}, {is_checked}");
        }
    }
}
