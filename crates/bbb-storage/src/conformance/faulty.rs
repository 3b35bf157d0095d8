//! A bucket in which things go wrong, as often as a test says.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::bucket::ServerFault;

/// What goes wrong. Numbers are chances between 0 and 1, drawn for each request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The server answers with an error, and has done nothing.
    pub errors: f64,
    /// The server asks to slow down, and has done nothing.
    pub slow_down: f64,
    /// The server has done what was asked for, and the answer is lost.
    pub lost_answers: f64,
    /// The body of an answer breaks off, with an error or without one.
    pub cut_bodies: f64,
    /// A byte of the body of an answer is changed on its way.
    pub wrong_bytes: f64,
    /// How long each request takes.
    pub latency: Duration,
    /// The server is not there.
    pub outage: bool,
    /// The server takes nothing more.
    pub full: bool,
}

/// An object store in which things go wrong.
pub struct Faulty<S> {
    inner: Arc<S>,
    state: Mutex<State>,
}

struct State {
    faults: Faults,
    chance: StdRng,
    uploads: HashSet<MultipartId>,
    requests: u64,
}

impl<S> Faulty<S> {
    /// A store in which nothing goes wrong yet. What will is drawn from the seed.
    pub fn new(inner: Arc<S>, seed: u64) -> Self {
        let (faults, chance) = (Faults::default(), StdRng::seed_from_u64(seed));
        let state = State { faults, chance, uploads: HashSet::new(), requests: 0 };
        Self { inner, state: Mutex::new(state) }
    }

    /// What goes wrong from now on.
    pub fn set(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// How many uploads in parts were begun, and neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// How many requests came.
    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to a request before the store sees it.
    async fn before(&self, writes: bool) -> Result<()> {
        let (latency, fault) = {
            let mut state = self.state();
            state.requests += 1;
            let faults = state.faults;
            let fault = if faults.outage {
                Some((503, "ServiceUnavailable"))
            } else if faults.full && writes {
                Some((507, "XMinioStorageFull"))
            } else if state.chance.random_bool(faults.slow_down) {
                Some((503, "SlowDown"))
            } else if state.chance.random_bool(faults.errors) {
                Some((500, "InternalError"))
            } else {
                None
            };
            (faults.latency, fault)
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        match fault {
            Some((status, code)) => Err(failed(status, code)),
            None => Ok(()),
        }
    }

    /// What happens to the answer.
    fn after<T>(&self, answer: Result<T>) -> Result<T> {
        let mut state = self.state();
        let chance = state.faults.lost_answers;
        match state.chance.random_bool(chance) {
            true => Err(broken("the answer is lost")),
            false => answer,
        }
    }

    /// What happens to the body of an answer.
    fn spoil(&self, body: Bytes) -> Vec<Result<Bytes>> {
        let mut state = self.state();
        let faults = state.faults;
        let chance = &mut state.chance;
        if body.is_empty() {
            return vec![Ok(body)];
        }
        let at = chance.random_range(0..body.len());
        if chance.random_bool(faults.cut_bodies) {
            let mut pieces = vec![Ok(body.slice(..at))];
            if chance.random_bool(0.5) {
                pieces.push(Err(broken("the body breaks off")));
            }
            return pieces;
        }
        if chance.random_bool(faults.wrong_bytes) {
            let mut wrong = body.to_vec();
            wrong[at] ^= 1 << chance.random_range(0..8);
            return vec![Ok(wrong.into())];
        }
        let rest = body.slice(at..);
        vec![Ok(body.slice(..at)), Ok(rest)]
    }
}

fn failed(status: u16, code: &str) -> object_store::Error {
    let (code, message) = (code.to_owned(), "on purpose".to_owned());
    let source = Box::new(ServerFault { status, code, message });
    object_store::Error::Generic { store: "faulty", source }
}

fn broken(what: &str) -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: what.into() }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for Faulty<S> {
    async fn put_opts(
        &self,
        key: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.before(true).await?;
        self.after(self.inner.put_opts(key, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before(true).await?;
        self.after(self.inner.put_multipart_opts(key, options).await)
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.before(false).await?;
        let result = self.after(self.inner.get_opts(key, options).await)?;
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let pieces = self.spoil(result.bytes().await?);
        let payload = GetResultPayload::Stream(stream::iter(pieces).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.state().faults.outage {
            true => stream::once(async { Err(failed(503, "ServiceUnavailable")) }).boxed(),
            false => self.inner.list(prefix).map_ok(|meta| meta).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before(false).await?;
        self.after(self.inner.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.before(true).await?;
        self.after(self.inner.copy_opts(from, to, options).await)
    }
}

#[async_trait]
impl<S: MultipartStore> MultipartStore for Faulty<S> {
    async fn create_multipart(&self, key: &Path) -> Result<MultipartId> {
        self.before(true).await?;
        let id = self.after(self.inner.create_multipart(key).await)?;
        self.state().uploads.insert(id.clone());
        Ok(id)
    }

    async fn put_part(
        &self,
        key: &Path,
        id: &MultipartId,
        at: usize,
        part: PutPayload,
    ) -> Result<PartId> {
        self.before(true).await?;
        self.after(self.inner.put_part(key, id, at, part).await)
    }

    async fn complete_multipart(
        &self,
        key: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        self.before(true).await?;
        let completed = self.inner.complete_multipart(key, id, parts).await;
        if completed.is_ok() {
            self.state().uploads.remove(id);
        }
        self.after(completed)
    }

    async fn abort_multipart(&self, key: &Path, id: &MultipartId) -> Result<()> {
        self.before(false).await?;
        let aborted = self.inner.abort_multipart(key, id).await;
        if aborted.is_ok() {
            self.state().uploads.remove(id);
        }
        self.after(aborted)
    }
}

impl<S> fmt::Display for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

impl<S> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
