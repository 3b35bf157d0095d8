//! What is asked of the assets, and what they answer.

use std::time::{Duration, SystemTime};

use bbb_digest::{Digest, Function, InstanceName};

use crate::{AssetUri, Kind, Qualifiers, key::key};

/// How long a fetch may take of which a client says nothing, and the longest that one may ask for.
const USUAL_TIMEOUT: Duration = Duration::from_secs(600);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The instance.
    pub instance: InstanceName,
    /// What is wanted.
    pub kind: Kind,
    /// By which function its digest is made.
    pub function: Function,
    /// What it is called; at least one.
    pub uris: Vec<AssetUri>,
    /// What else is said of it.
    pub qualifiers: Qualifiers,
    /// How long fetching it may take.
    pub timeout: Option<Duration>,
    /// How old it may be.
    pub oldest: Option<SystemTime>,
}

/// What a client says an asset is.
#[derive(Clone, Debug)]
pub struct Push {
    /// The instance.
    pub instance: InstanceName,
    /// What it is called; at least one.
    pub uris: Vec<AssetUri>,
    /// What else is said of it.
    pub qualifiers: Qualifiers,
    /// What it is.
    pub kind: Kind,
    /// The blob, or the root of the tree.
    pub content: Digest,
    /// Other blobs that are to stay as long.
    pub blobs: Vec<Digest>,
    /// Other trees that are to stay as long.
    pub directories: Vec<Digest>,
    /// When it is not to be given any more.
    pub expires: Option<SystemTime>,
}

/// An asset that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which of the URIs gave it.
    pub uri: usize,
    /// The blob, or the root of the tree.
    pub content: Digest,
    /// When it is not to be given any more.
    pub expires: Option<SystemTime>,
}

impl Fetch {
    /// Whether there is any origin to ask, in a way that is known.
    pub fn has_origin(&self) -> bool {
        self.qualifiers.unsupported().is_empty() && self.uris.iter().any(|uri| uri.url().is_some())
    }

    /// How long fetching it may take.
    pub fn longest(&self) -> Duration {
        self.timeout.unwrap_or(USUAL_TIMEOUT).min(LONGEST_TIMEOUT)
    }

    /// What tells the fetches apart that are not one, on all nodes. It is kept for as long as they run, and nowhere else: the
    /// credentials are part of it.
    pub fn key(&self) -> Digest {
        let mut bytes = format!("{:?}", self.instance).into_bytes();
        let credentials = self.qualifiers.credentials().fingerprint();
        bytes.extend_from_slice(credentials.hash());
        for uri in &self.uris {
            bytes.extend_from_slice(key(self.kind, self.function, uri, &self.qualifiers).hash());
        }
        Digest::of(Function::Sha256, &bytes)
    }
}
