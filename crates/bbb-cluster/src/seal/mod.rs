//! Sealed packets: what nodes of a cluster tell each other outside of their connections.
//!
//! A [`Sealer`] makes bytes unreadable to whoever has not the key, and takes only what was sealed with a key of its
//! [`KeyRing`], for the same purpose, unchanged, a short time ago, and, where packets come by the network, only once. It
//! promises never to panic and to keep within its bounds whatever comes, and to do no cryptography for what does not
//! even claim to be of its cluster. It knows nothing of what is in the packets.
//!
//! # Format
//!
//! | bytes | what |
//! |---|---|
//! | 3 | `bbb` |
//! | 1 | version of the format: 1 |
//! | 4 | cluster tag: follows from the cluster's name |
//! | 4 | key id: follows from the key and the cluster's name |
//! | 24 | random nonce |
//! | … | XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) of what follows; the first twelve bytes are its associated data |
//! | 8 | boot id: random, new with each sealer |
//! | 8 | counter: larger with each packet of a boot |
//! | 8 | when it was sealed: milliseconds of the Unix time |
//! | … | payload |
//!
//! Numbers are little-endian. Twelve bytes stand in clear so that a refusal can say why: without them another cluster,
//! another key and garbage look the same.

mod replay;

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chacha20poly1305::{AeadInPlace as _, KeyInit as _, Tag, XChaCha20Poly1305, XNonce};

use crate::keys::{ClusterTag, KeyId, KeyRing};

use replay::Replays;

const MAGIC: &[u8; 3] = b"bbb";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 12;
const NONCE_BYTES: usize = 24;
const STAMP_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// How far apart the clocks of two nodes may be, together with the time that a packet takes.
const MAX_SKEW: Duration = Duration::from_mins(2);

/// How old an entry of the bucket's list may be. Younger ones are written over and over; until then, whoever can write
/// to the bucket can put an old one back.
const MAX_LISTED: Duration = Duration::from_mins(10);

/// What sealed bytes are for. What was sealed for one purpose does not open for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Packets of the membership: each opens once.
    Gossip,
    /// Announcements in the local network: each opens once.
    Udp,
    /// Entries of the member list in the bucket: they are read over and over, for a while.
    BucketList,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Gossip => b"gossip",
            Self::Udp => b"udp",
            Self::BucketList => b"bucket list",
        }
    }

    const fn opens_once(self) -> bool {
        !matches!(self, Self::BucketList)
    }

    const fn max_age(self) -> Duration {
        match self {
            Self::Gossip | Self::Udp => MAX_SKEW,
            Self::BucketList => MAX_LISTED,
        }
    }
}

/// Seals and opens for one purpose, with the keys of one cluster.
pub struct Sealer {
    purpose: Purpose,
    tag: ClusterTag,
    is_open: bool,
    open_id: KeyId,
    /// The first seals, all open. There is at least one.
    keys: Vec<(KeyId, XChaCha20Poly1305)>,
    boot: u64,
    counter: AtomicU64,
    replays: Mutex<Replays>,
}

/// What came out of sealed bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// What was sealed.
    pub payload: Vec<u8>,
    /// A random number of the sealer that sealed it: a node has another one after each start.
    pub boot: u64,
    /// When it was sealed, by the clock of who did.
    pub sealed: SystemTime,
}

/// Why sealed bytes do not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no sealed packet, but garbage or of another program.
    #[error("is no packet of a node")]
    NotOurs,
    /// It is of a later program.
    #[error(
        "is a packet of version {version}, and this node knows {VERSION}: run the same version on all nodes"
    )]
    OtherVersion {
        /// The version that it claims.
        version: u8,
    },
    /// It is of a cluster of another name.
    #[error("belongs to a cluster with another --cluster_name")]
    OtherCluster,
    /// The sender has no key, and this node has.
    #[error("has no --secret_key, and this node has one: give it this node's")]
    SenderHasNoKey,
    /// The sender has a key, and this node has none.
    #[error("has a --secret_key, and this node has none: give it to this node")]
    WeHaveNoKey,
    /// Both have a key, but not the same.
    #[error(
        "has another --secret_key: give all nodes the same, or the other's as a second one while keys are changed"
    )]
    OtherKey,
    /// It claims a key of this node, but was not sealed with it, or was changed since, or is for another purpose.
    #[error("is forged, or was changed on its way")]
    Forged,
    /// It was opened before, or is so far behind that nobody can tell.
    #[error("is a replay of one that came before")]
    Replayed,
    /// The sender's clock is ahead of ours.
    #[error("is from the future by {} s: set the clocks of both machines", by.as_secs())]
    Early {
        /// By how much.
        by: Duration,
    },
    /// The sender's clock is behind ours, or it is an old packet.
    #[error("is {} s old: set the clocks of both machines", by.as_secs())]
    Late {
        /// By how much.
        by: Duration,
    },
}

impl Refusal {
    /// Whether it means nothing to this cluster: others may use the same network, and networks double packets. It is not
    /// worth a line in the log.
    pub const fn is_noise(self) -> bool {
        matches!(self, Self::NotOurs | Self::OtherCluster | Self::Replayed)
    }
}

impl Sealer {
    /// How much longer sealed bytes are than what is in them.
    pub const OVERHEAD_BYTES: usize = HEADER_BYTES + NONCE_BYTES + STAMP_BYTES + TAG_BYTES;

    /// A sealer with a boot id of its own.
    pub fn new(ring: &KeyRing, purpose: Purpose) -> Self {
        let keys = ring
            .roots()
            .iter()
            .map(|root| {
                let key = root.derive::<32>(purpose.label());
                (root.id, XChaCha20Poly1305::new((&*key).into()))
            })
            .collect();
        Self {
            purpose,
            tag: ring.tag(),
            is_open: ring.is_open(),
            open_id: ring.open_id(),
            keys,
            boot: rand::random(),
            counter: AtomicU64::new(0),
            replays: Mutex::default(),
        }
    }

    /// The random number by which receivers know this sealer's packets, as [`Opened::boot`]: so a node knows its own.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Seals a payload: the result is [`OVERHEAD_BYTES`](Self::OVERHEAD_BYTES) longer.
    #[expect(clippy::expect_used, reason = "the cipher takes up to 256 GiB")]
    pub fn seal(&self, now: SystemTime, payload: &[u8]) -> Vec<u8> {
        let (id, cipher) = &self.keys[0];
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let mut packet = Vec::with_capacity(payload.len() + Self::OVERHEAD_BYTES);
        packet.extend_from_slice(MAGIC);
        packet.push(VERSION);
        packet.extend_from_slice(&self.tag.0);
        packet.extend_from_slice(&id.0);
        packet.extend_from_slice(&nonce);
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        for number in [self.boot, counter, unix_ms(now)] {
            packet.extend_from_slice(&number.to_le_bytes());
        }
        packet.extend_from_slice(payload);
        let (clear, secret) = packet.split_at_mut(HEADER_BYTES + NONCE_BYTES);
        let tag = cipher
            .encrypt_in_place_detached(XNonce::from_slice(&nonce), &clear[..HEADER_BYTES], secret)
            .expect("shorter than the cipher's limit");
        packet.extend_from_slice(&tag);
        packet
    }

    /// Opens what another node, or this one, has sealed.
    ///
    /// It takes memory for as many bytes as there are, once the header is that of this cluster and of a known key: how
    /// many are read from anywhere is for the caller to bound.
    ///
    /// # Errors
    /// If it must not change anything: see [`Refusal`].
    pub fn open(&self, now: SystemTime, packet: &[u8]) -> Result<Opened, Refusal> {
        let packet = self.parse(packet)?;
        let mut known = self.keys.iter().filter(|(id, _)| *id == packet.key).peekable();
        if known.peek().is_none() {
            return Err(self.explain(packet.key));
        }
        let opened = known.find_map(|(_, cipher)| packet.decrypt(cipher));
        let mut secret = opened.ok_or(Refusal::Forged)?;
        let [boot, counter, sealed_ms] = stamp(&secret).ok_or(Refusal::Forged)?;
        secret.drain(..STAMP_BYTES);
        self.check_time(unix_ms(now), sealed_ms)?;
        if self.purpose.opens_once() {
            let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
            if !replays.admit(boot, counter, sealed_ms) {
                return Err(Refusal::Replayed);
            }
        }
        Ok(Opened { payload: secret, boot, sealed: UNIX_EPOCH + Duration::from_millis(sealed_ms) })
    }

    /// Takes a packet apart, if it claims to be of this cluster.
    fn parse<'a>(&self, packet: &'a [u8]) -> Result<Packet<'a>, Refusal> {
        let (header, rest) = packet.split_first_chunk::<HEADER_BYTES>().ok_or(Refusal::NotOurs)?;
        let [m0, m1, m2, version, t0, t1, t2, t3, id @ ..] = *header;
        if [m0, m1, m2] != *MAGIC {
            return Err(Refusal::NotOurs);
        }
        if version != VERSION {
            return Err(Refusal::OtherVersion { version });
        }
        if [t0, t1, t2, t3] != self.tag.0 {
            return Err(Refusal::OtherCluster);
        }
        let (nonce, sealed) = rest.split_first_chunk().ok_or(Refusal::NotOurs)?;
        Ok(Packet { header, key: KeyId(id), nonce, sealed })
    }

    /// Why a key is not known.
    fn explain(&self, id: KeyId) -> Refusal {
        if id == self.open_id {
            Refusal::SenderHasNoKey
        } else if self.is_open {
            Refusal::WeHaveNoKey
        } else {
            Refusal::OtherKey
        }
    }

    fn check_time(&self, now_ms: u64, sealed_ms: u64) -> Result<(), Refusal> {
        let late = Duration::from_millis(now_ms.saturating_sub(sealed_ms));
        let early = Duration::from_millis(sealed_ms.saturating_sub(now_ms));
        if late > self.purpose.max_age() {
            Err(Refusal::Late { by: late })
        } else if early > MAX_SKEW {
            Err(Refusal::Early { by: early })
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

/// The parts of a packet, none of them proven.
struct Packet<'a> {
    header: &'a [u8; HEADER_BYTES],
    /// The key that it claims to be sealed with, as the header says.
    key: KeyId,
    nonce: &'a [u8; NONCE_BYTES],
    sealed: &'a [u8],
}

impl Packet<'_> {
    /// What is sealed, stamp and payload, if it was sealed with this key and not changed.
    fn decrypt(&self, cipher: &XChaCha20Poly1305) -> Option<Vec<u8>> {
        let (secret, tag) = self.sealed.split_last_chunk::<TAG_BYTES>()?;
        let mut secret = secret.to_vec();
        let (nonce, tag) = (XNonce::from_slice(self.nonce), Tag::from_slice(tag));
        cipher.decrypt_in_place_detached(nonce, self.header, &mut secret, tag).ok()?;
        Some(secret)
    }
}

/// Boot id, counter and time.
fn stamp(secret: &[u8]) -> Option<[u64; 3]> {
    let (stamp, _) = secret.split_first_chunk::<STAMP_BYTES>()?;
    let mut numbers = [0; 3];
    for (number, bytes) in numbers.iter_mut().zip(stamp.as_chunks::<8>().0) {
        *number = u64::from_le_bytes(*bytes);
    }
    Some(numbers)
}

/// Milliseconds since 1970; before, and in half a billion years, the next that there is.
fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
