//! The bucket as it is: requests with their retries, counted, and few enough at a time.
//!
//! Knows objects by their keys, and nothing of what they hold.

use std::{fmt, future::Future, ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetRange, GetResultPayload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutOptions, PutPayload, UpdateVersion, local::LocalFileSystem,
    multipart::MultipartStore, path::Path,
};
use tokio::sync::Semaphore;

use super::{
    lifetime::Ways,
    retry::{self, Failure},
    stats::{Counters, Request, add},
};

/// How many requests are on their way at once. The others wait, in order, within their deadlines.
const MAX_REQUESTS: usize = 256;

/// How many objects S3 lists, or deletes, in one request.
pub(super) const LIST_PAGE: usize = 1000;

/// What speaks to a bucket.
#[derive(Clone)]
pub struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) parts: Option<Arc<dyn MultipartStore>>,
    pub(super) ways: Ways,
}

impl Objects {
    /// A store that can have each part of an object sent again.
    pub fn with_parts<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Self {
        let parts: Arc<dyn MultipartStore> = Arc::clone(&store) as _;
        Self { parts: Some(parts), ..Self::plain(store) }
    }

    /// A store of which no more is known.
    pub fn plain(store: Arc<dyn ObjectStore>) -> Self {
        let ways = Ways::Server { copier: Arc::clone(&store) };
        Self { store, parts: None, ways }
    }

    /// A folder.
    pub(super) fn folder(store: LocalFileSystem) -> Self {
        Self { store: Arc::new(store), parts: None, ways: Ways::Files }
    }

    /// The same, with another client of the same bucket whose copies replace the metadata: S3 copies
    /// nothing onto itself otherwise.
    pub(super) fn with_copier(self, copier: Arc<dyn ObjectStore>) -> Self {
        Self { ways: Ways::Server { copier }, ..self }
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({})", self.store)
    }
}

/// What of an object is read.
#[derive(Clone, Debug)]
pub(super) enum Part {
    All,
    Range(Range<u64>),
    /// So many bytes from the end, or all if there are fewer.
    End(u64),
}

/// What was read of an object.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Bytes,
    /// Of the whole object.
    pub(super) meta: ObjectMeta,
}

/// A bucket with retries.
pub(super) struct Store {
    pub(super) objects: Objects,
    pub(super) counters: Counters,
    deadline: Duration,
    turns: Semaphore,
}

impl Store {
    pub(super) fn new(objects: Objects, deadline: Duration) -> Self {
        let turns = Semaphore::new(MAX_REQUESTS);
        Self { objects, counters: Counters::default(), deadline, turns }
    }

    /// The store as it is, without retries.
    pub(super) fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects.store)
    }

    /// Reads an object or a part of it, of at most `limit_bytes`. With an entity tag, only as long as the
    /// object has it.
    pub(super) async fn get(
        &self,
        key: &Path,
        part: Part,
        limit_bytes: u64,
        e_tag: Option<&str>,
    ) -> Result<Fetched, Failure> {
        let fetched = self
            .run(Request::Get, limit_bytes, || self.get_once(key, &part, limit_bytes, e_tag))
            .await?;
        add(&self.counters.bytes_in, fetched.bytes.len() as u64);
        Ok(fetched)
    }

    async fn get_once(
        &self,
        key: &Path,
        part: &Part,
        limit_bytes: u64,
        e_tag: Option<&str>,
    ) -> object_store::Result<Fetched> {
        let range = match part {
            Part::All => None,
            Part::Range(range) => Some(GetRange::Bounded(range.clone())),
            Part::End(len) => Some(GetRange::Suffix(*len)),
        };
        let options =
            GetOptions { range, if_match: e_tag.map(str::to_owned), ..GetOptions::default() };
        let result = self.objects.store.get_opts(key, options).await?;
        let meta = result.meta.clone();
        let len = result.range.end - result.range.start;
        if let Part::Range(range) = part
            && *range != result.range
        {
            return Err(broken(format!("gives {:?} for {range:?}", result.range)));
        }
        // What is longer than it can be is read so far that this shows.
        let len = len.min(limit_bytes.saturating_add(1));
        let bytes = match result.payload {
            // One trip to a blocking thread, where a stream would take one for every few kilobytes.
            GetResultPayload::File(..) if len <= limit_bytes => result.bytes().await?,
            _ => gather(result.into_stream(), len as usize).await?,
        };
        Ok(Fetched { bytes, meta })
    }

    /// Looks at an object.
    pub(super) async fn head(&self, key: &Path) -> Result<ObjectMeta, Failure> {
        self.run(Request::Head, 0, || self.objects.store.head(key)).await
    }

    /// Writes an object, in place of an older one.
    pub(super) async fn put(&self, key: &Path, payload: PutPayload) -> Result<(), Failure> {
        self.put_in_mode(key, payload, PutMode::Overwrite).await
    }

    /// Writes an object only if there is none; [`Failure::Condition`] if there is.
    pub(super) async fn create(&self, key: &Path, payload: PutPayload) -> Result<(), Failure> {
        self.put_in_mode(key, payload, PutMode::Create).await
    }

    /// Writes an object in place of that version of it; [`Failure::Condition`] if there is another.
    pub(super) async fn replace(
        &self,
        key: &Path,
        payload: PutPayload,
        version: UpdateVersion,
    ) -> Result<(), Failure> {
        self.put_in_mode(key, payload, PutMode::Update(version)).await
    }

    async fn put_in_mode(
        &self,
        key: &Path,
        payload: PutPayload,
        mode: PutMode,
    ) -> Result<(), Failure> {
        let len = payload.content_length() as u64;
        let put = || {
            add(&self.counters.bytes_out, len);
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            self.objects.store.put_opts(key, payload.clone(), options)
        };
        self.run(Request::Put, len, put).await?;
        Ok(())
    }

    /// Deletes an object; that there is none is as good.
    pub(super) async fn delete(&self, key: &Path) -> Result<(), Failure> {
        match self.run(Request::Delete, 0, || self.objects.store.delete(key)).await {
            Ok(()) | Err(Failure::Missing) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Copies an object within the bucket.
    pub(super) async fn copy(&self, from: &Path, to: &Path) -> Result<(), Failure> {
        let copy = || {
            let options = CopyOptions { mode: CopyMode::Overwrite, ..CopyOptions::default() };
            self.objects.store.copy_opts(from, to, options)
        };
        self.run(Request::Copy, 0, copy).await
    }

    /// Lists what lies under a prefix, page by page.
    pub(super) fn list(
        self: &Arc<Self>,
        prefix: Path,
    ) -> impl Stream<Item = Result<ObjectMeta, Failure>> + use<> {
        self.list_after(prefix, None)
    }

    /// The same, of those whose keys come after this one.
    pub(super) fn list_after(
        self: &Arc<Self>,
        prefix: Path,
        after: Option<Path>,
    ) -> impl Stream<Item = Result<ObjectMeta, Failure>> + use<> {
        let store = Arc::clone(self);
        // Folders give their files in no order, and all at once.
        let page_len = match self.objects.ways {
            Ways::Files => usize::MAX,
            Ways::Server { .. } => LIST_PAGE,
        };
        let pages = stream::try_unfold(Some(after), move |after: Option<Option<Path>>| {
            let (store, prefix) = (Arc::clone(&store), prefix.clone());
            async move {
                let Some(after) = after else { return Ok(None) };
                let page = store.list_page(&prefix, after.as_ref(), page_len).await?;
                let last = page.last().filter(|_| page.len() == page_len);
                let next = last.map(|meta| Some(meta.location.clone()));
                Ok(Some((stream::iter(page).map(Ok), next)))
            }
        });
        pages.try_flatten()
    }

    async fn list_page(
        &self,
        prefix: &Path,
        after: Option<&Path>,
        len: usize,
    ) -> Result<Vec<ObjectMeta>, Failure> {
        let list = || {
            let store = &self.objects.store;
            let listing = match after {
                Some(after) => store.list_with_offset(Some(prefix), after),
                None => store.list(Some(prefix)),
            };
            listing.take(len).try_collect::<Vec<_>>()
        };
        self.run(Request::List, 0, list).await
    }

    /// Deletes objects, once: who deletes many has no use for those that are deleted late. Tells of each
    /// what became of it.
    pub(super) fn delete_all(
        &self,
        keys: Vec<Path>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let requests = keys.len().div_ceil(LIST_PAGE);
        (0..requests).for_each(|_| self.counters.request(Request::Delete));
        self.objects.store.delete_stream(stream::iter(keys).map(Ok).boxed())
    }

    /// One operation: its attempts, each of which waits for its turn. The body, of whichever way, has about
    /// `body_bytes`.
    pub(super) async fn run<T, F>(
        &self,
        request: Request,
        body_bytes: u64,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        retry::run(self.deadline, &self.counters, request, body_bytes, || {
            let attempt = attempt();
            async {
                // It is never closed.
                let _turn = self.turns.acquire().await;
                attempt.await
            }
        })
        .await
    }
}

/// Reads a body that is to have `len` bytes at least, and drops what comes behind them.
async fn gather(
    mut body: BoxStream<'static, object_store::Result<Bytes>>,
    len: usize,
) -> object_store::Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(mut piece) = body.try_next().await? {
        if bytes.is_empty() {
            if piece.len() >= len {
                piece.truncate(len);
                return Ok(piece);
            }
            bytes.reserve(len);
        }
        bytes.extend_from_slice(&piece[..piece.len().min(len - bytes.len())]);
        if bytes.len() == len {
            return Ok(bytes.freeze());
        }
    }
    match len {
        0 => Ok(Bytes::new()),
        _ => Err(broken(format!("body ends after {} of {len} bytes", bytes.len()))),
    }
}

/// An answer that cannot be right: to be asked for again.
fn broken(what: String) -> object_store::Error {
    object_store::Error::Generic { store: "bucket", source: what.into() }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.objects.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_are_gathered_and_those_that_break_off_are_not_taken() {
        let body = |pieces: &[&'static str]| {
            let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from(*piece))).collect();
            stream::iter(pieces).boxed()
        };
        assert_eq!(gather(body(&["whole"]), 5).await.unwrap(), "whole");
        assert_eq!(gather(body(&["in", "", " two"]), 6).await.unwrap(), "in two");
        assert_eq!(gather(body(&["far ", "too long"]), 5).await.unwrap(), "far t");
        assert_eq!(gather(body(&[]), 0).await.unwrap(), "");
        assert!(gather(body(&["cut", " off"]), 8).await.is_err());
    }
}
