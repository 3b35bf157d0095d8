//! Fetches of remote assets at the node that owns them, so that all who want one at once, on whichever nodes, wait for the same.
//!
//! An owner that is gone or busy is not waited for, and one that says nothing only for as long as the fetch may take: whoever
//! asked fetches himself then.

use std::{fmt, sync::Arc, time::Duration};

use bbb_cluster::{ClusterView, MemberId};
use bbb_digest::Digest;
use prost::Message;
use tokio::sync::{Semaphore, watch};

use crate::{Connections, call::WaitsFor};

/// The paths of the calls.
const FETCH_BLOB: &str = "/build.bazel.remote.asset.v1.Fetch/FetchBlob";
const FETCH_DIRECTORY: &str = "/build.bazel.remote.asset.v1.Fetch/FetchDirectory";

/// How many fetches may be waited for at other nodes. Each takes a stream of a connection that blobs and results go over too;
/// who comes when there are so many fetches himself.
const MAX_WAITED_FOR: usize = 256;

/// What is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asset {
    /// A blob: `FetchBlobRequest`, `FetchBlobResponse`.
    Blob,
    /// A directory: `FetchDirectoryRequest`, `FetchDirectoryResponse`.
    Directory,
}

/// The fetches of a cluster.
pub struct SharedAssets {
    view: watch::Receiver<Arc<ClusterView>>,
    connections: Arc<Connections>,
    waits: Semaphore,
}

impl SharedAssets {
    /// Fetches at the nodes of the view.
    pub fn new(view: watch::Receiver<Arc<ClusterView>>, connections: Arc<Connections>) -> Self {
        Self { view, connections, waits: Semaphore::new(MAX_WAITED_FOR) }
    }

    /// The node that owns a fetch, if it is another one.
    fn owner(&self, key: Digest) -> Option<MemberId> {
        let view = self.view.borrow();
        let [first, ..] = view.owners(key.hash());
        first.filter(|owner| **owner != view.own().id).cloned()
    }

    /// What the owner of the fetch that is called `key` answers to a request whose fetch may take `timeout`; none if that is this
    /// node, or does not answer.
    pub async fn fetch<Q, A>(
        &self,
        asset: Asset,
        key: Digest,
        request: Q,
        timeout: Duration,
    ) -> Option<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let owner = self.owner(key)?;
        let _wait = self.waits.try_acquire().ok()?;
        let peer = self.connections.to(&owner);
        let path = match asset {
            Asset::Blob => FETCH_BLOB,
            Asset::Directory => FETCH_DIRECTORY,
        };
        let turns = peer.enter(WaitsFor::Outside).ok()?;
        let within = timeout.saturating_add(self.connections.bounds().fetched);
        match peer.call(turns, path, request, within).await {
            Ok(answer) => {
                tracing::debug!(%owner, "an asset was fetched by its owner");
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(%owner, %error, "the owner of an asset does not fetch it");
                None
            }
        }
    }
}

impl fmt::Debug for SharedAssets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedAssets").finish_non_exhaustive()
    }
}
