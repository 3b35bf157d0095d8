//! The view of one instance's results.
//!
//! A file holds a magic line, a checksum over what follows and over what the result belongs to, and the
//! encoded `ActionResult`.

use std::{
    fmt,
    io::{self, Write as _},
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use bbb_digest::Digest;
use prost::Message as _;

use crate::{ActionCache, ActionResult, Result};

use super::{
    Disk, Reservation, blocking,
    file::{self, Temporary},
    index::Key,
    layout::Kind,
    read::Opened,
    view::View,
};

/// What a file of this version begins with.
const MAGIC: &[u8] = b"bbb result 1\n";

const CHECKSUM_LEN: usize = 32;

/// How often a read is tried while files change under it.
const ATTEMPTS: usize = 4;

#[derive(Debug)]
pub(super) struct Results(pub(super) View);

#[async_trait]
impl ActionCache for Results {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        let disk = &self.0.disk;
        for _ in 0..ATTEMPTS {
            let Some(key) = self.0.find(Kind::Result, action).await? else { break };
            let hit = |result| {
                disk.counters.hits.fetch_add(1, Ordering::Relaxed);
                Ok(Some(result))
            };
            if let Some(result) = disk.results.get(&(key.instance, action)) {
                return hit(result);
            }
            match disk.open_entry(key).await? {
                Opened::Bytes(bytes) => match decode(self.0.segment(), action, &bytes) {
                    Some(result) => {
                        let result = Arc::new(result);
                        disk.results.insert((key.instance, action), Arc::clone(&result));
                        return hit(result);
                    }
                    None => {
                        let disk = Arc::clone(disk);
                        let dropped = blocking("dropping a result", move || {
                            disk.drop_damaged(&key, None);
                            Ok(())
                        });
                        dropped.await?;
                    }
                },
                Opened::File(_) | Opened::Changed => disk.doubt(&key),
            }
        }
        disk.counters.misses.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        let disk = &self.0.disk;
        disk.refuse_when_closed()?;
        let key = self.0.key_to_write(Kind::Result, action);
        let result = Arc::new(result);
        let bytes: Arc<[u8]> = encode(self.0.segment(), action, &result).into();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let _turn = disk.turn_to_write().await?;
            let reservation = disk.reserve_file(bytes.len() as u64).await?;
            let (disk, bytes, result) = (Arc::clone(disk), Arc::clone(&bytes), Arc::clone(&result));
            let written = blocking("writing a result", move || {
                Ok(disk.write_result(&key, &bytes, result, reservation))
            });
            match written.await? {
                Ok(()) => return Ok(()),
                Err(error) => self.0.disk.recover(error, action, attempts).await?,
            }
        }
    }
}

impl Disk {
    fn write_result(
        &self,
        key: &Key,
        bytes: &[u8],
        result: Arc<ActionResult>,
        reservation: Reservation,
    ) -> io::Result<()> {
        let (mut file, temporary) = Temporary::create(self)?;
        file.write_all(bytes)?;
        file::seal(&file, key.kind, self.mtime)?;
        drop(file);
        self.commit(key, bytes.len() as u64, &temporary, reservation, || {
            self.results.insert((key.instance, key.digest), result);
        })
    }
}

/// The file of a result that belongs to `segment`.
pub(crate) fn encode(segment: &str, action: Digest, result: &ActionResult) -> Vec<u8> {
    let start = MAGIC.len() + CHECKSUM_LEN;
    let mut bytes = Vec::with_capacity(start + result.encoded_len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[0; CHECKSUM_LEN]);
    // A vector has room for any message.
    let _ = result.encode(&mut bytes);
    let checksum = checksum(segment, action, &bytes[start..]);
    bytes[MAGIC.len()..start].copy_from_slice(checksum.as_bytes());
    bytes
}

/// The result that a file holds; nothing if it is damaged, or that of something else.
pub(crate) fn decode(segment: &str, action: Digest, bytes: &[u8]) -> Option<ActionResult> {
    let (found, payload) = bytes.strip_prefix(MAGIC)?.split_at_checked(CHECKSUM_LEN)?;
    match checksum(segment, action, payload).as_bytes() == found {
        true => ActionResult::decode(payload).ok(),
        false => None,
    }
}

fn checksum(segment: &str, action: Digest, payload: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("buildbuildbuild result on disk 1");
    for part in [segment.as_bytes(), action.function().name().as_bytes(), action.hash()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(&action.size_bytes().to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use bbb_digest::Function;

    use super::*;

    #[test]
    fn a_result_is_read_back_only_whole_and_in_its_place() {
        let action = Digest::of(Function::Sha256, b"action");
        let other = Digest::of(Function::Sha256, b"other");
        let result =
            ActionResult { exit_code: 7, stdout_raw: b"out".to_vec(), ..Default::default() };
        let bytes = encode("%", action, &result);
        assert_eq!(decode("%", action, &bytes), Some(result));
        assert_eq!(decode("a", action, &bytes), None);
        assert_eq!(decode("%", other, &bytes), None);
        assert_eq!(decode("%", action, &bytes[..bytes.len() - 1]), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode("%", action, &damaged), None, "byte {at}");
        }
    }
}
