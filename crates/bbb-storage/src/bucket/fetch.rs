//! A part of an object's body in ranges: read ahead, in parallel and in order, within the tier's memory.

use std::{collections::VecDeque, future::Future, ops::Range, pin::pin, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use object_store::path::Path;

use super::{
    budget::{Budget, Taken},
    retry::Failure,
    store::{Part, Store},
};

/// How much is read by one request.
const RANGE_BYTES: u64 = 8 << 20;

/// How many requests are on their way for one reader, what came and was not taken counted in.
const MAX_AHEAD: usize = 4;

/// What a range ended in.
#[derive(Debug)]
pub(super) enum Lost {
    /// There was no memory for it in time.
    Memory(crate::Error),
    /// The bucket did not give it.
    Bucket(Failure),
}

/// Bytes that came, and the memory that they take until whoever reads them is through.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) bytes: Bytes,
    pub(super) _taken: Option<Taken>,
}

type Arrived = Result<Fetch, Lost>;

/// Ranges of an object on their way.
pub(super) struct Ranges {
    store: Arc<Store>,
    budget: Arc<Budget>,
    key: Path,
    e_tag: Option<String>,
    rest: Range<u64>,
    coming: FuturesOrdered<BoxFuture<'static, Arrived>>,
    came: VecDeque<Arrived>,
}

impl Ranges {
    /// The bytes of an object in this range, as long as it has this entity tag.
    pub(super) fn new(
        store: &Arc<Store>,
        budget: &Arc<Budget>,
        key: &Path,
        e_tag: Option<String>,
        range: Range<u64>,
    ) -> Self {
        Self {
            store: Arc::clone(store),
            budget: Arc::clone(budget),
            key: key.clone(),
            e_tag,
            rest: range,
            coming: FuturesOrdered::new(),
            came: VecDeque::new(),
        }
    }

    /// The next bytes; none when all came.
    pub(super) async fn next(&mut self) -> Option<Arrived> {
        self.read_ahead();
        match self.came.pop_front() {
            Some(range) => Some(range),
            None => self.coming.next().await,
        }
    }

    /// Does other work, and goes on reading meanwhile.
    pub(super) async fn while_reading<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            self.read_ahead();
            if self.coming.is_empty() {
                return work.await;
            }
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(range) = self.coming.next() => self.came.push_back(range),
            }
        }
    }

    /// Asks for more where there is memory for it. Only what is needed next waits for memory, so that
    /// two readers never wait for each other.
    fn read_ahead(&mut self) {
        while self.coming.len() + self.came.len() < MAX_AHEAD && !self.rest.is_empty() {
            let len = RANGE_BYTES.min(self.budget.ranges.bytes() / 2).max(1 << 20);
            let end = self.rest.end.min(self.rest.start + len);
            let range = self.rest.start..end;
            let is_next = self.coming.is_empty() && self.came.is_empty();
            let taken = self.budget.ranges.try_take_ahead(end - range.start);
            if taken.is_none() && !is_next {
                return;
            }
            self.rest.start = end;
            self.coming.push_back(self.fetch(range, taken));
        }
    }

    fn fetch(&self, range: Range<u64>, taken: Option<Taken>) -> BoxFuture<'static, Arrived> {
        let (store, budget) = (Arc::clone(&self.store), Arc::clone(&self.budget));
        let (key, e_tag) = (self.key.clone(), self.e_tag.clone());
        async move {
            let len = range.end - range.start;
            let taken = match taken {
                Some(taken) => taken,
                None => budget.ranges.take(len).await.map_err(Lost::Memory)?,
            };
            let fetched = store.get(&key, Part::Range(range), len, e_tag.as_deref()).await;
            let bytes = fetched.map_err(Lost::Bucket)?.bytes;
            Ok(Fetch { bytes, _taken: Some(taken) })
        }
        .boxed()
    }
}
