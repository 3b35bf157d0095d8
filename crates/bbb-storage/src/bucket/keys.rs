//! Where things lie in the bucket. This is the only place that makes a key.
//!
//! ```text
//! <prefix>/v1/<hh>/cas/<instance>/<function>/<hash>-<size>   blobs
//! <prefix>/v1/<hh>/ac/<instance>/<function>/<hash>-<size>    results, by the digest of the action
//! <prefix>/v1/<hh>/log/<instance>/<function>/<hash>-<size>   pages of logs, by a digest that follows from their names
//! <prefix>/v1/<hh>/asset/<instance>/<function>/<hash>-<size> records of remote assets, by a digest that follows from what they are called
//! <prefix>/v1/meta/<name>                                    what the nodes keep about the bucket itself
//! ```
//!
//! `<hh>` are the first two digits of the hash. S3 serves some thousands of requests a second per prefix,
//! so that 256 of them spread the load; and each is a shard that can be listed by itself.

use bbb_digest::{Digest, Function, InstanceName};
use object_store::path::Path;

use crate::segment::segment;

/// The version of the layout, as it stands in every key.
const VERSION: &str = "v1";

/// What stands before the bytes of an instance's name that keys had better not hold. Every server takes it
/// as it is.
const ESCAPE: char = '!';

/// What is told apart under one digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A blob.
    Blob,
    /// The result of an action.
    Result,
    /// A page that tells which blobs some logs are.
    Log,
    /// A record that tells which blob or directory a remote asset is.
    Asset,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Blob, Self::Result, Self::Log, Self::Asset];

    const fn folder(self) -> &'static str {
        match self {
            Self::Blob => "cas",
            Self::Result => "ac",
            Self::Log => "log",
            Self::Asset => "asset",
        }
    }
}

/// The root of the layout, and the way from it to everything.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// Ends in no slash.
    root: String,
}

impl Keys {
    /// The keys below a prefix, which may be empty.
    pub(crate) fn new(prefix: &Path) -> Self {
        let root = prefix.clone().join(VERSION);
        Self { root: root.into() }
    }

    /// Where an instance's entry lies.
    pub(crate) fn entry(&self, kind: Kind, instance: &InstanceName, digest: Digest) -> Path {
        let (root, folder, function) = (&self.root, kind.folder(), digest.function());
        let (hex, size_bytes) = (digest.hex(), digest.size_bytes());
        let shard = &hex.as_str()[..2];
        let instance = segment(instance, ESCAPE);
        raw(format!("{root}/{shard}/{folder}/{instance}/{function}/{hex}-{size_bytes}"))
    }

    /// What all entries of one kind lie under whose hashes begin with this byte.
    pub(crate) fn shard(&self, shard: u8, kind: Kind) -> Path {
        raw(format!("{}/{shard:02x}/{}", self.root, kind.folder()))
    }

    /// Where something lies that the nodes keep about the bucket itself. The name holds letters, digits,
    /// `-` and `/`.
    pub(crate) fn meta(&self, name: &str) -> Path {
        raw(format!("{}/meta/{name}", self.root))
    }

    /// Where the object of a key is put that turned out damaged.
    pub(crate) fn aside(&self, key: &Path) -> Path {
        let place = key.as_ref().strip_prefix(&self.root).unwrap_or(key.as_ref());
        self.meta(&format!("quarantine/{}", place.trim_start_matches('/')))
    }

    /// The kind and digest that a key stands for, of whatever instance; none if it is no entry's.
    pub(crate) fn parse(&self, key: &Path) -> Option<(Kind, Digest)> {
        let rest = key.as_ref().strip_prefix(&self.root)?.strip_prefix('/')?;
        let mut segments = rest.split('/');
        let mut next = || segments.next();
        let (shard, folder, _instance) = (next()?, next()?, next()?);
        let (function, name) = (next()?, next()?);
        let kind = Kind::ALL.into_iter().find(|kind| kind.folder() == folder)?;
        let (hex, size) = name.split_once('-')?;
        // Only the one way in which a size is written is ours: no sign, no leading zeros.
        let size_bytes: i64 =
            size.parse().ok().filter(|parsed: &i64| parsed.to_string() == size)?;
        let digest = Digest::parse(Function::from_name(function)?, hex, size_bytes).ok()?;
        (next().is_none() && hex.starts_with(shard) && shard.len() == 2).then_some((kind, digest))
    }
}

/// A key as it stands: everything in it is written so that nothing is left to escape.
fn raw(key: String) -> Path {
    let key = key.trim_start_matches('/');
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        Digest::of(Function::Sha256, b"hello")
    }

    #[test]
    fn keys_look_as_documented() {
        let keys = Keys::new(&Path::from("team/cache"));
        let hex = digest().hex();
        let key = |kind, name: &str| keys.entry(kind, &name.parse().unwrap(), digest()).to_string();
        assert_eq!(
            key(Kind::Blob, "main/ci"),
            format!("team/cache/v1/2c/cas/main!2Fci/sha256/{hex}-5")
        );
        assert_eq!(key(Kind::Result, ""), format!("team/cache/v1/2c/ac/!/sha256/{hex}-5"));
        assert_eq!(keys.shard(0x0c, Kind::Result).to_string(), "team/cache/v1/0c/ac");
        assert_eq!(keys.meta("lease").to_string(), "team/cache/v1/meta/lease");
        let entry = keys.entry(Kind::Blob, &InstanceName::default(), digest());
        let aside = format!("team/cache/v1/meta/quarantine/2c/cas/!/sha256/{hex}-5");
        assert_eq!(keys.aside(&entry).to_string(), aside);
        assert_eq!(Keys::new(&Path::default()).meta("a/b").to_string(), "v1/meta/a/b");
    }

    #[test]
    fn a_key_is_read_back_as_what_it_was_made_of() {
        for prefix in ["", "a", "a b/ü%20"] {
            let keys = Keys::new(&Path::from(prefix));
            for function in Function::ALL {
                for (kind, instance) in Kind::ALL.into_iter().zip(["", "ü/%20 x~#?", "a", "b"]) {
                    let digest = Digest::of(function, b"hello");
                    let key = keys.entry(kind, &instance.parse().unwrap(), digest);
                    assert_eq!(keys.parse(&key), Some((kind, digest)), "{key}");
                    let shard = keys.shard(digest.hash()[0], kind);
                    assert!(key.prefix_matches(&shard), "{key} is not in {shard}");
                }
            }
        }
    }

    #[test]
    fn foreign_keys_are_nobody() {
        let keys = Keys::new(&Path::from("p"));
        let good = keys.entry(Kind::Blob, &InstanceName::default(), digest()).to_string();
        assert!(keys.parse(&Path::from(good.as_str())).is_some());
        let bad = [
            good.replace("p/", "q/"),
            good.replace("/v1/", "/v2/"),
            good.replace("/2c/", "/2d/"),
            good.replace("/cas/", "/other/"),
            good.replace("sha256", "md5"),
            good.replace("-5", "-05"),
            format!("{good}/x"),
            keys.meta("lease").to_string(),
        ];
        for key in bad {
            assert_eq!(keys.parse(&Path::from(key.as_str())), None, "{key}");
        }
    }
}
