//! The secret keys of a cluster, and what is derived from them.
//!
//! A [`SecretKey`] is text as the user gave it, and strong enough; a [`KeyRing`] is a cluster's name and its keys, of
//! which the first seals and all open. A cluster without a key has a ring too, derived from what everybody knows: it
//! takes the same road and protects against accidents only.
//!
//! Everything is derived by HKDF-SHA256 (RFC 5869) with a salt that names the protocol, and for one purpose and one
//! cluster name: no two uses share a key, and clusters of different names cannot talk even if their keys are equal.
//!
//! No key is ever shown or logged, and its memory is zeroed when it is dropped; what the caller's own copies do (a
//! command line, a file's buffer) is the caller's business.

mod error;
mod strength;

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

pub use error::{KeyError, Place};

/// What a secret key has to be worth at least, by [`strength::bits`].
pub(crate) const MIN_BITS: u32 = 128;

/// A longer key is a mistake: another file, most likely.
const MAX_KEY_BYTES: usize = 1024;

/// More keys than any rotation needs. Each costs its share of a handshake.
pub const MAX_KEYS: usize = 8;

/// A larger file holds something else.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Names the protocol in all derivations. What is derived must stay the same on all nodes: a change of any of it is
/// another protocol and takes another salt.
const SALT: &[u8] = b"buildbuildbuild cluster v1";

/// What stands in for the secret of a cluster that has none.
const OPEN_SECRET: &[u8] = b"open: everybody knows this key";

/// A secret that all nodes of a cluster share, of at least 128 bits by a sober estimate.
///
/// Its text is the secret as it is, without the space around it: base64, hexadecimal digits and long passphrases are
/// all taken, and none is decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Zeroizing<String>);

impl SecretKey {
    /// The keys of one flag's value, separated by commas.
    ///
    /// # Errors
    /// If there is none, too many, or one twice, or one is weak or too long; it says which.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, KeyError> {
        let places = (1..).map(Place::Key);
        collect(places.zip(text.split(',')))
    }

    /// The keys in the text of a file, one to a line. Blank lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// If there is none, too many, or one twice, or one is weak or too long; it says which.
    pub fn parse_lines(text: &str) -> Result<Vec<Self>, KeyError> {
        let lines = text.lines().map(str::trim);
        let lines = (1..).map(Place::Line).zip(lines);
        collect(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')))
    }

    /// The keys in a file, as [`parse_lines`](Self::parse_lines) takes them. It waits for the disk.
    ///
    /// # Errors
    /// If the file cannot be read, is too large or is not text, and as for its lines.
    pub fn read_file(path: &Path) -> Result<Vec<Self>, KeyError> {
        let unreadable = |cause| KeyError::Unreadable { path: path.to_owned(), cause };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = Zeroizing::new(String::new());
        std::io::Read::read_to_string(
            &mut std::io::Read::take(file, MAX_FILE_BYTES + 1),
            &mut text,
        )
        .map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(KeyError::LargeFile { path: path.to_owned(), max_bytes: MAX_FILE_BYTES });
        }
        Self::parse_lines(&text)
            .map_err(|cause| KeyError::InFile { path: path.to_owned(), cause: Box::new(cause) })
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyError::Missing);
        }
        if text.len() > MAX_KEY_BYTES {
            return Err(KeyError::Long { bytes: text.len(), max_bytes: MAX_KEY_BYTES });
        }
        let bits = strength::bits(text);
        if bits < MIN_BITS {
            return Err(KeyError::Weak { bits });
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// Reads each key, and names the place of the first bad one.
fn collect<'a>(texts: impl Iterator<Item = (Place, &'a str)>) -> Result<Vec<SecretKey>, KeyError> {
    let mut keys = Vec::new();
    for (place, text) in texts {
        let in_place = |cause| KeyError::At { place, cause: Box::new(cause) };
        keys.push(text.parse().map_err(in_place)?);
        check_count(&keys).map_err(in_place)?;
    }
    if keys.is_empty() { Err(KeyError::Missing) } else { Ok(keys) }
}

/// Refuses a last key that is one too many, or stands there already.
fn check_count(keys: &[SecretKey]) -> Result<(), KeyError> {
    if keys.len() > MAX_KEYS {
        return Err(KeyError::Many { max: MAX_KEYS });
    }
    match keys.split_last() {
        Some((last, before)) if before.contains(last) => Err(KeyError::Twice),
        _ => Ok(()),
    }
}

/// The keys of one cluster: the first seals, all open. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing(Arc<Ring>);

struct Ring {
    cluster_name: String,
    tag: ClusterTag,
    is_open: bool,
    /// The id of the key of an open cluster of this name, whatever our keys are.
    open_id: KeyId,
    keys: Vec<RootKey>,
}

impl KeyRing {
    /// The ring of a cluster with secret keys.
    ///
    /// # Errors
    /// If there is no key, there are more than [`MAX_KEYS`], or one stands there twice.
    pub fn new(cluster_name: &str, keys: &[SecretKey]) -> Result<Self, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::Missing);
        }
        for count in 1..=keys.len() {
            check_count(&keys[..count])?;
        }
        let roots = keys.iter().map(|key| RootKey::new(cluster_name, key.0.as_bytes())).collect();
        Ok(Self::of(cluster_name, roots, false))
    }

    /// The ring of a cluster without a key: whoever knows the cluster's name can make it too.
    pub fn open(cluster_name: &str) -> Self {
        Self::of(cluster_name, vec![RootKey::new(cluster_name, OPEN_SECRET)], true)
    }

    fn of(cluster_name: &str, keys: Vec<RootKey>, is_open: bool) -> Self {
        let open = RootKey::new(cluster_name, OPEN_SECRET);
        Self(Arc::new(Ring {
            cluster_name: cluster_name.to_owned(),
            tag: ClusterTag(*open.derive(b"cluster tag")),
            is_open,
            open_id: open.id,
            keys,
        }))
    }

    /// Whether the cluster has no key, so that it is open to whoever reaches it.
    pub fn is_open(&self) -> bool {
        self.0.is_open
    }

    /// The cluster's name.
    pub fn cluster_name(&self) -> &str {
        &self.0.cluster_name
    }

    /// What stands for the cluster's name where it is seen by others. It is no secret, and follows from the name alone.
    pub fn tag(&self) -> ClusterTag {
        self.0.tag
    }

    /// All keys, the one that seals first. There is at least one.
    pub(crate) fn roots(&self) -> &[RootKey] {
        &self.0.keys
    }

    /// The id that the packets of a cluster of this name without a key bear.
    pub(crate) fn open_id(&self) -> KeyId {
        self.0.open_id
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("cluster_name", &self.0.cluster_name)
            .field("is_open", &self.0.is_open)
            .field("keys", &self.0.keys.len())
            .finish()
    }
}

/// Four bytes that stand for a cluster's name; shown as eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterTag(pub(crate) [u8; 4]);

impl fmt::Display for ClusterTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// Four bytes that stand for a key where it is seen by others. They tell nothing of it, except to who has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyId(pub(crate) [u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// A key of a cluster, from which keys for purposes are derived.
pub(crate) struct RootKey {
    /// What stands for it in clear.
    pub(crate) id: KeyId,
    cluster_name: String,
    pseudorandom: Zeroizing<[u8; 32]>,
}

impl RootKey {
    fn new(cluster_name: &str, secret: &[u8]) -> Self {
        let (pseudorandom, _) = Hkdf::<Sha256>::extract(Some(SALT), secret);
        let mut root = Self {
            id: KeyId([0; 4]),
            cluster_name: cluster_name.to_owned(),
            pseudorandom: Zeroizing::new(pseudorandom.into()),
        };
        root.id = KeyId(*root.derive(b"key id"));
        root
    }

    /// The key for a purpose, which contains no zero byte.
    #[expect(clippy::expect_used, reason = "both lengths are constants within HKDF's bounds")]
    pub(crate) fn derive<const BYTES: usize>(&self, purpose: &[u8]) -> Zeroizing<[u8; BYTES]> {
        const { assert!(BYTES <= 32) };
        let mut key = Zeroizing::new([0; BYTES]);
        let hkdf = Hkdf::<Sha256>::from_prk(&*self.pseudorandom).expect("as long as the hash");
        hkdf.expand_multi_info(&[purpose, &[0], self.cluster_name.as_bytes()], &mut *key)
            .expect("at most as long as the hash");
        key
    }
}

#[cfg(test)]
mod tests;
