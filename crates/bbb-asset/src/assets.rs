//! The assets of all instances: what is remembered of them, and how what is not is fetched.

use std::{fmt, io, sync::Arc, time::SystemTime};

use bbb_digest::{Digest, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_storage::{ActionCache, Complete, Disk, Error, Instances};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::HeaderMap;
use tokio::{
    sync::Semaphore,
    time::{self, Instant},
};
use url::Url;

use crate::{
    AssetUri, Failed, Failure, Fetch, FetchError, Found, Kind, Origins, Push, Record, UnpackLimits,
    directory::{Trees, part},
    download::{Got, Wish, download},
    failure::Stories,
    flight::Flights,
    git,
    key::key,
    record::{Origin, Standing, Validators},
    spool::Spooled,
};

/// How many URIs are looked up, and records written, at a time.
const LOOKED_UP_AT_ONCE: usize = 8;

/// How many archives are unpacked at a time, each of which takes a thread and up to some 150 MiB.
const UNPACKED_AT_ONCE: usize = 2;

/// How many repositories are fetched at a time, each by some processes of its own.
const CLONED_AT_ONCE: usize = 4;

/// Where the records of an instance lie, in the form of results.
pub type RecordsOf = Box<dyn Fn(&InstanceName) -> Arc<dyn ActionCache> + Send + Sync>;

/// The assets of all instances. Cheap to clone.
#[derive(Clone)]
pub struct Assets(Arc<Shared>);

struct Shared {
    instances: Arc<Instances>,
    records: RecordsOf,
    disk: Arc<Disk>,
    origins: Origins,
    /// The largest that is fetched.
    limit_bytes: u64,
    flights: Flights<Result<Found, FetchError>>,
    /// Turns to unpack, and to fetch a repository.
    unpacking: Arc<Semaphore>,
    cloning: Semaphore,
}

impl fmt::Debug for Assets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assets").field("origins", &self.0.origins).finish_non_exhaustive()
    }
}

impl Assets {
    /// Assets whose content lies in `instances` and whose records lie where `records` says; what comes in passes through the
    /// scratch folder of `disk`. What is fetched has `limit_bytes` at the most, and is fetched by tasks of `tasks`.
    pub fn new(
        instances: Arc<Instances>,
        records: RecordsOf,
        disk: Arc<Disk>,
        origins: Origins,
        limit_bytes: u64,
        tasks: &TaskGroup,
    ) -> Self {
        let flights = Flights::new(tasks.clone());
        let unpacking = Arc::new(Semaphore::new(UNPACKED_AT_ONCE));
        let cloning = Semaphore::new(CLONED_AT_ONCE);
        let shared =
            Shared { instances, records, disk, origins, limit_bytes, flights, unpacking, cloning };
        Self(Arc::new(shared))
    }

    /// Finds an asset that is remembered.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn find(&self, fetch: &Fetch, now: SystemTime) -> Result<Option<Found>, FetchError> {
        match self.0.look_up(fetch, now).await? {
            LookedUp::Found(found) => Ok(Some(found)),
            LookedUp::Stale(_) => Ok(None),
        }
    }

    /// Fetches an asset that was not found a moment ago, or waits for the fetch of it that is under way.
    ///
    /// # Errors
    /// As [`FetchError`] has them.
    pub async fn fetch(&self, fetch: Fetch, now: SystemTime) -> Result<Found, FetchError> {
        if !fetch.qualifiers.unsupported().is_empty() {
            return Err(FetchError::Unsupported(fetch.qualifiers.unsupported().to_vec()));
        }
        if !fetch.has_origin() {
            let what = "nobody pushed it here, and it is called by no http or https URL".to_owned();
            return Err(FetchError::Outside { failed: Failed::NotFound, uri: 0, what });
        }
        let (key, oldest) = (fetch.key(), fetch.oldest);
        let deadline = Instant::now() + fetch.longest();
        let shared = Arc::clone(&self.0);
        let start = || async move {
            // Another fetch may have come to its end since, here or on another node.
            match shared.look_up(&fetch, now).await? {
                LookedUp::Found(found) => Ok(found),
                LookedUp::Stale(stale) => shared.fetch_anew(fetch, stale, deadline, now).await,
            }
        };
        self.0.flights.join(key, now, oldest, deadline, start).await?
    }

    /// Remembers an asset by all its URIs.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if what it is, or is to keep, is not there; as [`ActionCache::put`] otherwise.
    pub async fn push(&self, push: Push, now: SystemTime) -> Result<(), Error> {
        let Push { instance, uris, qualifiers, kind, content, blobs, directories, expires } = push;
        let record = Record {
            kind,
            content,
            blobs,
            directories,
            since: now,
            expires,
            origin: Origin::Pushed,
        };
        let (records, result) = (&self.0.records(&instance), &record.to_result());
        let key = |uri| key(kind, content.function(), uri, &qualifiers);
        let keys: Vec<Digest> = uris.iter().map(key).collect();
        let writes = keys.into_iter().map(|key| records.put(key, result.clone()));
        stream::iter(writes).buffer_unordered(LOOKED_UP_AT_ONCE).try_collect().await
    }
}

/// What is remembered of the URIs of a request.
enum LookedUp {
    Found(Found),
    /// What may be asked about, by the index of its URI.
    Stale(Vec<(usize, Record)>),
}

impl Shared {
    /// The records of an instance that are complete.
    fn records(&self, instance: &InstanceName) -> Arc<dyn ActionCache> {
        let stores = self.instances.get(instance);
        Arc::new(Complete::new((self.records)(instance), stores.cas, stores.trees))
    }

    async fn look_up(&self, fetch: &Fetch, now: SystemTime) -> Result<LookedUp, Error> {
        let records = &self.records(&fetch.instance);
        let key = |uri| key(fetch.kind, fetch.function, uri, &fetch.qualifiers);
        let keys: Vec<Digest> = fetch.uris.iter().map(key).collect();
        let looks = keys.into_iter().map(|key| records.get(key));
        // In order, so that the client's favourite goes first.
        let known: Vec<_> = stream::iter(looks).buffered(LOOKED_UP_AT_ONCE).try_collect().await?;
        let mut stale = Vec::new();
        for (index, result) in known.into_iter().enumerate() {
            let record = result.and_then(|r| Record::of_result(fetch.kind, fetch.function, &r));
            let Some(record) = record else { continue };
            let may_be_given = record.origin == Origin::Pushed || fetch.qualifiers.may_be_shared();
            match standing(&record, fetch, now) {
                _ if !may_be_given => {}
                Standing::Good => return Ok(LookedUp::Found(found(index, &record))),
                Standing::Stale => stale.push((index, record)),
                Standing::Gone => {}
            }
        }
        Ok(LookedUp::Stale(stale))
    }

    async fn fetch_anew(
        &self,
        fetch: Fetch,
        stale: Vec<(usize, Record)>,
        deadline: Instant,
        now: SystemTime,
    ) -> Result<Found, FetchError> {
        let mut stories = Stories::default();
        let tried = async {
            for (index, uri) in fetch.uris.iter().enumerate() {
                let known = stale.iter().find(|(of, _)| *of == index).map(|(_, record)| record);
                let again_until = share(deadline, &fetch.uris[index..]);
                match self.fetch_one(&fetch, index, known, again_until, now).await {
                    Ok(found) => return Some(Ok(found)),
                    Err(Failure::Outside { failed, what }) => {
                        tracing::debug!(%uri, what, "cannot fetch an asset");
                        stories.add(index, failed, format!("{uri}: {what}"));
                    }
                    Err(Failure::Invalid(invalid)) => return Some(Err(invalid.into())),
                    Err(Failure::NoGit) => return Some(Err(FetchError::NoGit)),
                    Err(Failure::Storage(error)) => return Some(Err(error.into())),
                }
            }
            None
        };
        match time::timeout_at(deadline, tried).await {
            Ok(Some(ended)) => return ended,
            Ok(None) => {}
            Err(_) => {
                let index = stories.count().min(fetch.uris.len() - 1);
                let what = format!("{}: not done within {:?}", fetch.uris[index], fetch.longest());
                stories.add(index, Failed::TooLate, what);
            }
        }
        Err(stories.into_error())
    }

    async fn fetch_one(
        &self,
        fetch: &Fetch,
        index: usize,
        known: Option<&Record>,
        again_until: Instant,
        now: SystemTime,
    ) -> Result<Found, Failure> {
        let uri = &fetch.uris[index];
        let Some(url) = uri.url() else {
            return Err(Failure::new(
                Failed::NotFound,
                "is no http or https URL, and nobody pushed it",
            ));
        };
        let (content, validators) = match fetch.kind {
            Kind::Directory if git::is_asked_for(&fetch.qualifiers) => {
                let headers = fetch.qualifiers.credentials().headers(index);
                let tree = self.clone_tree(fetch, url, headers, again_until).await?;
                (tree, Validators::default())
            }
            Kind::Blob | Kind::Directory => {
                self.download(fetch, (index, url), known, again_until, now).await?
            }
        };
        let record = fetched(fetch.kind, content, validators, now);
        self.remember(fetch, uri, &record, now).await?;
        Ok(found(index, &record))
    }

    /// Remembers what was fetched, if it is to be remembered.
    async fn remember(
        &self,
        fetch: &Fetch,
        uri: &AssetUri,
        record: &Record,
        now: SystemTime,
    ) -> Result<(), Error> {
        if !fetch.qualifiers.may_be_shared() {
            return Ok(());
        }
        let key = key(fetch.kind, fetch.function, uri, &fetch.qualifiers);
        let records = self.records(&fetch.instance);
        // What has been pushed since, above all, was acknowledged, and stays. It was not there when the fetch began.
        let by_now = records.get(key).await?;
        let by_now = by_now.and_then(|r| Record::of_result(fetch.kind, fetch.function, &r));
        if by_now.is_some_and(|by_now| standing(&by_now, fetch, now) == Standing::Good) {
            return Ok(());
        }
        records.put(key, record.to_result()).await
    }

    /// Downloads from one URL, unless what is known is still right; says what the asset is.
    async fn download(
        &self,
        fetch: &Fetch,
        (index, url): (usize, &Url),
        known: Option<&Record>,
        again_until: Instant,
        now: SystemTime,
    ) -> Result<(Digest, Validators), Failure> {
        let validators = known.and_then(|record| match &record.origin {
            Origin::Fetched(validators) => Some(validators),
            Origin::Pushed => None,
        });
        let wish = Wish {
            url,
            headers: fetch.qualifiers.credentials().headers(index),
            function: fetch.function,
            integrity: fetch.qualifiers.integrity(),
            known: validators.filter(|known| known.etag.is_some() || known.last_modified.is_some()),
            limit_bytes: self.limit_bytes,
            again_until,
        };
        let got = download(&self.origins, &self.disk, &wish, now).await?;
        match (got, known) {
            (Got::Unchanged(validators), Some(record)) => Ok((record.content, validators)),
            (Got::Unchanged(_), None) => {
                Err(Failure::new(Failed::Aborted, "it says that nothing has changed, unasked"))
            }
            (Got::Bytes(spooled, validators), _) => {
                Ok((self.take_in(fetch, spooled).await?, validators))
            }
        }
    }

    /// Fetches a repository.
    async fn clone_tree(
        &self,
        fetch: &Fetch,
        url: &Url,
        headers: HeaderMap,
        again_until: Instant,
    ) -> Result<Digest, Failure> {
        let limits = UnpackLimits::of_bytes(self.limit_bytes);
        let cas = self.instances.get(&fetch.instance).cas;
        let trees = Trees { disk: Arc::clone(&self.disk), cas, function: fetch.function };
        let _turn = self.cloning.acquire().await;
        let Fetch { qualifiers, .. } = fetch;
        git::fetch(&self.origins, &trees, url, headers, qualifiers, limits, again_until).await
    }

    /// Stores what was downloaded: as it is, or what is in it.
    async fn take_in(&self, fetch: &Fetch, spooled: Spooled) -> Result<Digest, Failure> {
        let cas = self.instances.get(&fetch.instance).cas;
        match fetch.kind {
            Kind::Blob => {
                let digest = spooled.hashed().digest();
                cas.put(digest, spooled.hashed().clone().into()).await?;
                Ok(digest)
            }
            Kind::Directory => {
                let limits = UnpackLimits::of_bytes(self.limit_bytes);
                let part = part(&fetch.qualifiers, &limits)?;
                let trees = Trees { disk: Arc::clone(&self.disk), cas, function: fetch.function };
                // They are closed by nobody.
                let turn = Arc::clone(&self.unpacking).acquire_owned().await;
                let turn =
                    turn.map_err(|error| Error::unavailable("unpacking", io::Error::other(error)))?;
                trees.store_archive(spooled, part, limits, turn).await
            }
        }
    }
}

/// Until when the first of these URIs may be tried again, so that one that is of no use leaves time for the others.
fn share(deadline: Instant, uris: &[AssetUri]) -> Instant {
    let now = Instant::now();
    let urls = uris.iter().filter(|uri| uri.url().is_some()).count().max(1) as u32;
    now + deadline.saturating_duration_since(now) / urls
}

/// What a record is good for, for this fetch.
fn standing(record: &Record, fetch: &Fetch, now: SystemTime) -> Standing {
    record.standing(now, fetch.oldest, fetch.qualifiers.integrity().is_some())
}

fn found(uri: usize, record: &Record) -> Found {
    Found { uri, content: record.content, expires: record.expires }
}

fn fetched(kind: Kind, content: Digest, validators: Validators, since: SystemTime) -> Record {
    let (blobs, directories) = (Vec::new(), Vec::new());
    let origin = Origin::Fetched(validators);
    Record { kind, content, blobs, directories, since, expires: None, origin }
}
