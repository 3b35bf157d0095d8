//! How an entry looks: a magic line, a checksum over the rest and its name, its length, and a message in a zstd frame.
//!
//! The message is an `ActionResult` whose files are named by logs and offsets, with their bytes in place.

use std::io;

use bbb_reapi::{LogResource, Resource, proto::reapi};
use bytes::Bytes;
use prost::Message as _;

use super::{EntryName, MAX_ENTRY_BYTES};
use crate::{Error, Result, zstd};

const MAGIC: &[u8] = b"bbb journal 1\n";

const CHECKSUM_LEN: usize = 32;

/// What a log got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) log: LogResource,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

impl Part {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// Makes an entry; for as long as its bytes take to be compressed.
pub(super) fn encode(name: &EntryName, parts: &[Part]) -> Result<Bytes> {
    let files = parts.iter().map(|part| reapi::OutputFile {
        path: format!("{}/{}", part.log, part.offset),
        contents: part.bytes.clone().into(),
        ..reapi::OutputFile::default()
    });
    let message =
        reapi::ActionResult { output_files: files.collect(), ..reapi::ActionResult::default() };
    let plain = message.encode_to_vec();
    let packed = zstd::encode_bytes(&plain)
        .map_err(|error| Error::unavailable("compressing what logs got", error))?;
    let mut rest = (plain.len() as u32).to_le_bytes().to_vec();
    rest.extend_from_slice(&packed);
    Ok([MAGIC, checksum(name, &rest).as_bytes(), &rest].concat().into())
}

/// Reads an entry.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(name: &EntryName, entry: &[u8]) -> io::Result<Vec<Part>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let rest = entry.strip_prefix(MAGIC).ok_or_else(|| bad("is no entry of a journal"))?;
    let (sum, rest) = rest.split_at_checked(CHECKSUM_LEN).ok_or_else(|| bad("is too short"))?;
    if checksum(name, rest).as_bytes() != sum {
        return Err(bad("has another checksum"));
    }
    let (len, packed) = rest.split_first_chunk().ok_or_else(|| bad("is too short"))?;
    let len = u32::from_le_bytes(*len);
    if u64::from(len) > MAX_ENTRY_BYTES {
        return Err(bad("is too long"));
    }
    let message = reapi::ActionResult::decode(zstd::decode_bytes(packed, len as usize)?)
        .map_err(io::Error::other)?;
    let parts = message.output_files.into_iter().map(part);
    parts.collect::<Option<_>>().ok_or_else(|| bad("names what is no log"))
}

fn part(file: reapi::OutputFile) -> Option<Part> {
    let (log, offset) = file.path.rsplit_once('/')?;
    match Resource::parse(log).ok()? {
        Resource::Log(log) => {
            Some(Part { log, offset: offset.parse().ok()?, bytes: file.contents.into() })
        }
        _ => None,
    }
}

fn checksum(name: &EntryName, rest: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("buildbuildbuild journal of logs 1");
    let name = name.to_string();
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.update(rest);
    hasher.finalize()
}
