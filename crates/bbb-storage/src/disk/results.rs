//! The view of one instance's results.
//!
//! A file holds a magic line, a checksum over what follows and over what the result belongs to, and the
//! encoded `ActionResult`.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::Digest;
use prost::Message as _;
use quick_cache::sync::GuardResult;

use crate::{ActionCache, ActionResult, Error, Result};

use super::{
    Disk, Reservation, blocking,
    file::{self, Temporary},
    index::Key,
    layout::Kind,
    read::Opened,
    view::{View, is_absent},
};

/// What a file of this version begins with.
const MAGIC: &[u8] = b"bbb result 1\n";

const CHECKSUM_LEN: usize = 32;

/// How often a read is tried while files change under it.
const ATTEMPTS: usize = 4;

/// Nobody waits for another reader of the same result.
const NO_WAIT: Option<Duration> = Some(Duration::ZERO);

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
            // The place is held before the file is opened: whoever stores another result meanwhile takes it away,
            // and what was read here is old.
            let place = match disk.results.get_value_or_guard(&(key.instance, action), NO_WAIT) {
                GuardResult::Value(result) => return hit(result),
                GuardResult::Guard(place) => Some(place),
                GuardResult::Timeout => None,
            };
            match disk.open_entry(key).await? {
                Opened::Bytes(bytes) => match decode(self.0.segment(), action, &bytes) {
                    Some(result) => {
                        let result = Arc::new(result);
                        if let Some(place) = place {
                            // Refused if it is old.
                            let _ = place.insert(Arc::clone(&result));
                        }
                        return hit(result);
                    }
                    None => self.drop_unreadable(key).await?,
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
        let _turn = disk.turn_to_write().await?;
        disk.with_room(action, || {
            let (disk, bytes, result) = (Arc::clone(disk), Arc::clone(&bytes), Arc::clone(&result));
            async move {
                let reservation = disk.reserve_file(bytes.len() as u64).await?;
                blocking("writing a result", move || {
                    Ok(disk.write_result(&key, &bytes, result, reservation))
                })
                .await
            }
        })
        .await
    }
}

impl Results {
    /// Drops a result that cannot be read, if it is still that one which lies there.
    async fn drop_unreadable(&self, key: Key) -> Result<()> {
        let (disk, segment) = (Arc::clone(&self.0.disk), self.0.segment().to_owned());
        blocking("dropping a result", move || {
            let path = disk.path(&key);
            let read = || {
                let mut file = file::open(&path)?;
                let (metadata, mut bytes) = (file.metadata()?, Vec::new());
                file.read_to_end(&mut bytes)?;
                Ok((file, metadata, bytes))
            };
            match read() {
                // The file stays open until it is dropped: no other one is mistaken for it.
                Ok((_file, metadata, bytes)) if decode(&segment, key.digest, &bytes).is_none() => {
                    disk.drop_damaged(&key, Some(&metadata));
                    Ok(())
                }
                Ok(_) => Ok(()),
                Err(error) if is_absent(&error) => Ok(()),
                Err(error) => Err(Error::unavailable(format!("reading {}", path.display()), error)),
            }
        })
        .await
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
