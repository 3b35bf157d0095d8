//! The page `/cluster`: this node and those that it knows, as JSON for scripts and people.
//!
//! It shows counters since the node's start and the view as it is now. It asks nobody but the scheduler, how the work is.

use std::{sync::Arc, time::Duration};

use axum::{Router, http::header, response::IntoResponse, routing::get};
use bbb_cluster::{ClusterView, Member};
use bbb_peer::PeerStats;
use bbb_scheduler::{PoolState, Snapshot, WorkerState};
use bbb_storage::{Bucket, BucketStats, Disk};
use serde_json::{Value, json};
use tokio::{sync::watch, time};

use crate::{
    metrics::shown,
    work::{OwnWork, Work},
};

/// How many pools, those with the longest queues, and how many workers are shown.
const MAX_SHOWN: usize = 1000;

/// How long the scheduler may take to say how the work is: a page shows what there is to show when it is gone, too.
const SCHEDULER_WITHIN: Duration = Duration::from_millis(250);

/// Where the page shows what it shows from.
#[derive(Clone)]
pub(crate) struct ClusterPage {
    /// The node's name.
    pub(crate) node_name: String,
    /// What the node keeps here.
    pub(crate) disk: Arc<Disk>,
    /// What it keeps for good.
    pub(crate) bucket: Option<Arc<Bucket>>,
    /// None on a node that stays alone.
    pub(crate) cluster: Option<InCluster>,
    /// What is to be done.
    pub(crate) work: Work,
}

/// What there is more to show of a node in a cluster.
#[derive(Clone)]
pub(crate) struct InCluster {
    /// Its name.
    pub(crate) name: String,
    /// Whether it has a key.
    pub(crate) is_sealed: bool,
    /// Who is there.
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    /// What passed between this node and the others.
    pub(crate) stats: Arc<dyn Fn() -> PeerStats + Send + Sync>,
}

impl ClusterPage {
    /// The page at its path.
    pub(crate) fn routes(self) -> Router {
        let page = move || {
            let page = self.clone();
            async move {
                let text = format!("{:#}\n", page.value().await);
                ([(header::CONTENT_TYPE, "application/json")], text).into_response()
            }
        };
        Router::new().route("/cluster", get(page))
    }

    async fn value(&self) -> Value {
        let stored = self.disk.stats();
        let mut page = json!({
            "node": { "name": self.node_name },
            "members": [],
            "store": {
                "blobs": stored.blobs,
                "results": stored.results,
                "bytes": stored.taken_bytes,
                "limit_bytes": stored.limit_bytes,
                "hits": stored.hits,
                "misses": stored.misses,
                "evictions": stored.evictions,
            },
        });
        if let Some(bucket) = &self.bucket {
            page["bucket"] = requests(&bucket.stats());
        }
        if let Some(cluster) = &self.cluster {
            let view = cluster.view.borrow().clone();
            page["node"]["generation"] = view.me().generation.into();
            page["cluster"] = cluster.name.as_str().into();
            page["sealed"] = cluster.is_sealed.into();
            page["members"] = view.members().iter().map(member).collect();
            page["peers"] = between_nodes(&(cluster.stats)());
        }
        page["work"] = self.work().await;
        page
    }

    /// What is to be done in the whole cluster, as its scheduler says.
    async fn work(&self) -> Value {
        let OwnWork { busy_slots, accepted } = self.work.own().await;
        let scheduler = match &self.cluster {
            Some(cluster) => cluster.view.borrow().scheduler().id.name.to_string(),
            None => self.node_name.clone(),
        };
        let mut work = json!({
            "scheduler": scheduler,
            "own": { "busy_slots": busy_slots, "accepted": accepted },
        });
        match time::timeout(SCHEDULER_WITHIN, self.work.dispatch().snapshot()).await {
            Ok(Ok(snapshot)) => add_scheduled(&mut work, &snapshot),
            Ok(Err(error)) => work["error"] = error.to_string().into(),
            Err(_) => work["error"] = "the scheduler gives no answer".into(),
        }
        work
    }
}

fn member(member: &Member) -> Value {
    let Member { id, properties } = member;
    json!({
        "name": &*id.name,
        "generation": id.generation,
        "gossip": id.gossip,
        "address": id.port,
        "version": properties.version,
        "slots": properties.slots,
        "platform": properties.platform,
        "leaving": properties.is_leaving,
        "load": {
            "running": properties.load.running,
            "queued": properties.load.queued,
            "per_processor": properties.load.per_processor,
            "stored_bytes": properties.load.stored_bytes,
        },
    })
}

fn add_scheduled(work: &mut Value, snapshot: &Snapshot) {
    work["queued"] = snapshot.queued.into();
    work["executing"] = snapshot.executing.into();
    work["completed"] = snapshot.completed.into();
    work["granted"] = snapshot.granted.into();
    work["waited_seconds"] = snapshot.waited.as_secs_f64().into();
    let mut pools: Vec<&PoolState> = snapshot.pools.iter().collect();
    pools.sort_by_key(|pool| std::cmp::Reverse(pool.queued));
    work["pools"] = pools.into_iter().take(MAX_SHOWN).map(pool).collect();
    work["workers"] = snapshot.workers.iter().take(MAX_SHOWN).map(worker).collect();
}

fn pool(pool: &PoolState) -> Value {
    json!({
        "asks_for": shown(pool),
        "queued": pool.queued,
        "executing": pool.executing,
        "oldest_wait_seconds": pool.oldest_wait.as_secs_f64(),
        "slots": pool.slots,
    })
}

fn worker(worker: &WorkerState) -> Value {
    json!({
        "name": worker.offer.name,
        "slots": worker.offer.slots,
        "busy": worker.busy,
        "draining": worker.draining,
    })
}

fn requests(stats: &BucketStats) -> Value {
    json!({
        "get": stats.get,
        "head": stats.head,
        "put": stats.put,
        "part": stats.part,
        "multipart": stats.multipart,
        "delete": stats.delete,
        "list": stats.list,
        "copy": stats.copy,
        "bytes_read": stats.bytes_in,
        "bytes_written": stats.bytes_out,
        "retries": stats.retries,
        "faults": stats.faults,
        "damaged": stats.damaged,
        "renewed": stats.renewed,
        "expired": stats.expired,
    })
}

fn between_nodes(stats: &PeerStats) -> Value {
    json!({
        "reads": stats.reads,
        "hits": stats.hits,
        "misses": stats.misses,
        "bytes": stats.bytes,
        "resumed": stats.resumed,
        "fallbacks": stats.fallbacks,
        "stepped_over": stats.stepped_over,
        "existence_calls": stats.existence_calls,
        "results": stats.results,
        "locates": stats.locates,
        "hints_told": stats.hints_told,
        "hints_dropped": stats.hints_dropped,
        "hints_heard": stats.hints_heard,
        "hints": stats.hints,
    })
}
