//! The blobs of one instance in the bucket.

use std::{collections::HashSet, fmt, future::Future, sync::Arc};

use async_trait::async_trait;
use bbb_digest::{Digest, InstanceName};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectMeta, PutPayload, path::Path};

use crate::{Blob, Cas, Content, Encoding, Error, Result, Source, Wanted};

use super::{Bucket, existence::Id, keys::Kind, lifetime::Used, read::Place, retry::Failure};

/// How often an object is written that a collector took for the one before it.
const MAX_WRITES: u32 = 3;

/// How many looks are on their way for each transfer that an operation may have: they cost the server and
/// the network next to nothing.
const LOOKS_PER_TRANSFER: usize = 8;

/// The view of an instance's blobs.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    bucket: Arc<Bucket>,
    instance: InstanceName,
}

impl Blobs {
    pub(super) fn new(bucket: &Arc<Bucket>, instance: &InstanceName) -> Self {
        Self { bucket: Arc::clone(bucket), instance: instance.clone() }
    }

    fn place(&self, digest: Digest) -> Place {
        let key = self.bucket.keys.entry(Kind::Blob, &self.instance, digest);
        let id = Id::of(&key);
        Place { bucket: Arc::clone(&self.bucket), digest, key, id }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Cas for Blobs {
    async fn get(&self, digest: Digest, wanted: Wanted) -> Result<Blob> {
        if digest.is_empty() {
            let content = Content::Bytes(Bytes::new());
            return Ok(Blob { size_bytes: 0, encoding: Encoding::Identity, content });
        }
        if digest.size_bytes() == 0 {
            return Err(Error::Missing(digest));
        }
        self.place(digest).read(wanted).await
    }

    async fn put(&self, digest: Digest, source: Source) -> Result<()> {
        if digest.is_empty() {
            return Ok(());
        }
        if digest.size_bytes() == 0 {
            let found = "bytes that no hash of nothing is".to_owned();
            return Err(Error::Mismatch { expected: digest, found });
        }
        self.place(digest).write(source).await
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let mut seen = HashSet::with_capacity(digests.len());
        let unknown: Vec<Place> = digests
            .iter()
            .filter(|digest| !digest.is_empty() && seen.insert(**digest))
            .map(|digest| self.place(*digest))
            .filter(|place| !self.bucket.existence.is_known(place.id))
            .collect();
        let looks = stream::iter(unknown).map(|place| async move {
            let Place { bucket, digest, key, id } = place;
            // No bytes have the hash of a blob of no bytes, but for the empty one.
            let is_there = digest.size_bytes() > 0 && bucket.exists(key, id).await?;
            Ok((!is_there).then_some(digest))
        });
        let at_once = self.bucket.settings.concurrency.max(1) * LOOKS_PER_TRANSFER;
        looks
            .buffer_unordered(at_once)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await
    }
}

impl Bucket {
    /// Another node has written these blobs a moment ago, and the bucket has acknowledged them: nobody needs to look.
    pub fn note_written(&self, instance: &InstanceName, digests: &[Digest]) {
        for digest in digests {
            self.existence.saw(Id::of(&self.keys.entry(Kind::Blob, instance, *digest)));
        }
    }

    /// Another node has looked for a blob a moment ago, and it is not there: what this node knew of it is no longer so.
    pub fn note_missing(&self, instance: &InstanceName, digest: Digest) {
        self.existence.gone(Id::of(&self.keys.entry(Kind::Blob, instance, digest)));
    }

    /// Those of the blobs that are not known to be there without a look.
    pub fn unknown(&self, instance: &InstanceName, digests: &[Digest]) -> Vec<Digest> {
        let is_known = |digest: &Digest| {
            let key = self.keys.entry(Kind::Blob, instance, *digest);
            digest.is_empty() || self.existence.is_known(Id::of(&key))
        };
        digests.iter().filter(|digest| !is_known(digest)).copied().collect()
    }

    /// Makes sure that an object that was seen may be promised. Tells whether it counts as there.
    pub(super) async fn hold(&self, kind: Kind, meta: &ObjectMeta) -> Result<bool> {
        let Some(lifetime) = &self.lifetime else { return Ok(true) };
        lifetime.hold(kind, meta, self.settings.deadline).await.map_err(|failure| {
            let what = format!("keeping {} from expiring", meta.location);
            Error::unavailable(what, std::io::Error::other(failure))
        })
    }

    /// Whether an object is to be renewed with its next use.
    pub(super) fn is_aging(&self, kind: Kind, meta: &ObjectMeta) -> bool {
        self.lifetime.as_ref().is_some_and(|lifetime| lifetime.is_aging(kind, meta))
    }

    /// Whether an object may be promised as it is.
    pub(super) fn is_fresh(&self, kind: Kind, meta: &ObjectMeta) -> bool {
        self.lifetime.as_ref().is_none_or(|lifetime| lifetime.is_fresh(kind, meta))
    }

    /// Notes that an object was read. Tells whether it counts as there.
    pub(super) fn used(&self, kind: Kind, id: Id, meta: &ObjectMeta) -> bool {
        let used = self.lifetime.as_ref().map_or(Used::Alive, |life| life.used(kind, meta));
        if used == Used::Alive {
            self.existence.saw(id);
        }
        used != Used::Dead
    }

    /// Makes an object visible by `write`, and sees to it that it stays. Tells whether it did: if not, it is
    /// to be written again.
    pub(super) async fn keep<F>(&self, kind: Kind, key: &Path, write: F) -> Result<bool, Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let Some(lifetime) = &self.lifetime else { return write.await.map(|()| true) };
        let begun = lifetime.begin_write();
        write.await?;
        lifetime.end_write(kind, key, begun).await
    }

    /// Writes a whole object, and sees to it that it stays.
    pub(super) async fn put(
        &self,
        kind: Kind,
        key: &Path,
        object: PutPayload,
    ) -> Result<(), Failure> {
        // After the window in which it was deleted, it is not deleted once more.
        for _ in 0..MAX_WRITES {
            if self.keep(kind, key, self.store.put(key, object.clone())).await? {
                return Ok(());
            }
        }
        Err(Failure::unknown("the object was deleted each time that it was written"))
    }

    /// Whether an object is there: as it is known, or by a look.
    pub(super) async fn exists(self: &Arc<Self>, key: Path, id: Id) -> Result<bool> {
        if self.existence.is_known(id) {
            return Ok(true);
        }
        let (is_there, is_late) = self.existence.look(id, self.look(key.clone(), id)).await?;
        if is_there || !is_late {
            return Ok(is_there);
        }
        // It may have been written since that look began, and acknowledged before this question. The next one, whoever
        // began it, did so later.
        self.existence.look(id, self.look(key, id)).await.map(|(is_there, _)| is_there)
    }

    /// A look at an object itself.
    fn look(
        self: &Arc<Self>,
        key: Path,
        id: Id,
    ) -> impl Future<Output = Result<bool>> + Send + use<> {
        let bucket = Arc::clone(self);
        async move {
            match bucket.store.head(&key).await {
                Ok(meta) => {
                    let is_held = bucket.hold(Kind::Blob, &meta).await?;
                    if is_held {
                        bucket.existence.saw(id);
                    }
                    Ok(is_held)
                }
                Err(Failure::Missing) => {
                    bucket.existence.gone(id);
                    bucket.believe_miss().await.map(|()| false)
                }
                Err(failure) => {
                    let what = format!("looking for {key}");
                    Err(Error::unavailable(what, std::io::Error::other(failure)))
                }
            }
        }
    }
}

impl fmt::Display for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.bucket, self.instance)
    }
}
