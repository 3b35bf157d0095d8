//! Journals: what the growing logs of a node got, kept apart from the node each second, for when it is gone.
//!
//! A journal is a sequence of entries. An entry holds what all logs of the node got since the one before, so that a node
//! makes an entry a second, however many actions it runs, and none while nothing is printed. An entry goes when all logs in
//! it can be read elsewhere.
//!
//! Promises: entries are written one after the other, a log's bytes in their order; no more than an entry is in memory to
//! be written, and one for each who reads; what a journal holds has bounds with names.
//!
//! The seam is [`JournalStore`]: a bucket, or a folder where there is none.

mod entry;
mod folder;
mod keep;
mod read;

use std::fmt;

use async_trait::async_trait;
use bbb_reapi::{LogHost, LogId};
use bytes::Bytes;

use crate::Result;

pub use folder::JournalFolder;
pub(super) use keep::{Journal, YOUNG};

/// The most that an entry has, encoded or not, in bytes.
pub(crate) const MAX_ENTRY_BYTES: u64 = 5 << 20;

/// Where journals lie.
#[async_trait]
pub trait JournalStore: Send + Sync + fmt::Debug + 'static {
    /// Writes an entry. When this returns, it survives this process.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full), or [`Error::Unavailable`](crate::Error::Unavailable) on any fault.
    async fn write(&self, entry: &EntryName, bytes: Bytes) -> Result<()>;

    /// The names of a node's entries since a moment, in their order; of very many the first ones.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) on any fault.
    async fn list(&self, host: LogHost, since_ms: u64) -> Result<Vec<EntryName>>;

    /// Reads an entry; none if it is not there.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) on any fault.
    async fn read(&self, entry: &EntryName) -> Result<Option<Bytes>>;

    /// Removes entries. That some are not there is as good.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) on any fault; any of them may be there then.
    async fn remove(&self, entries: &[EntryName]) -> Result<()>;
}

/// What an entry is called: `{node}/{moment}-{life}-{filter}`, in hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryName {
    /// The node whose logs are in it.
    pub host: LogHost,
    /// When it was made, in milliseconds of the Unix time. No two of one life have the same.
    pub at_ms: u64,
    /// Drawn by each process of the node.
    pub life: u32,
    /// Tells whose logs are not in it.
    pub filter: Filter,
}

impl EntryName {
    /// What all names of a node's entries begin with, before a slash.
    pub(crate) fn folder(host: LogHost) -> String {
        format!("{:016x}", host.0)
    }

    /// What the names of all entries since a moment are not before.
    pub(crate) fn since(at_ms: u64) -> String {
        format!("{at_ms:012x}")
    }

    /// The part behind the slash.
    pub(crate) fn file(&self) -> String {
        format!("{}-{:08x}-{}", Self::since(self.at_ms), self.life, self.filter)
    }

    /// Reads what [`Self::file`] writes, in the one form that it has.
    pub(crate) fn parse(host: LogHost, file: &str) -> Option<Self> {
        let mut parts = file.splitn(3, '-');
        let at_ms = u64::from_str_radix(parts.next()?, 16).ok()?;
        let life = u32::from_str_radix(parts.next()?, 16).ok()?;
        let name = Self { host, at_ms, life, filter: Filter::parse(parts.next()?)? };
        (name.file() == file).then_some(name)
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Self::folder(self.host), self.file())
    }
}

/// A Bloom filter in an entry's name, so that who looks for a log reads few entries that do not have it: of 16 logs in it
/// a name of another one fits in one of 70 cases, of 64 in one of 6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter([u64; 4]);

impl Filter {
    /// Two bits for each log, out of the random part of its number.
    fn bits(log: LogId) -> [u8; 2] {
        let number = log.number as u16;
        [number as u8 ^ log.channel as u8, (number >> 8) as u8]
    }

    fn add(&mut self, log: LogId) {
        for bit in Self::bits(log) {
            self.0[usize::from(bit / 64)] |= 1 << (bit % 64);
        }
    }

    fn may_have(&self, log: LogId) -> bool {
        Self::bits(log).iter().all(|bit| self.0[usize::from(bit / 64)] >> (bit % 64) & 1 == 1)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = [0; 4];
        for (at, word) in words.iter_mut().enumerate() {
            *word = u64::from_str_radix(text.get(at * 16..at * 16 + 16)?, 16).ok()?;
        }
        Some(Self(words))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

#[cfg(test)]
mod tests;
