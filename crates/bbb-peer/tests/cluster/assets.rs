//! Fetches of remote assets at the nodes that own them.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function};
use bbb_peer::assets::Asset;
use bbb_reapi::proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse,
    fetch_server::Fetch,
};
use futures::future::join_all;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::{
    link::State,
    rig::{Rig, until},
};

/// What all bounds of one road together come to, on a machine that has other things to do as well.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a fetch may take that ends anyhow.
const LONG: Duration = Duration::from_secs(600);

/// What becomes of the fetches that a node owns.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    manner: Mutex<Manner>,
    asked: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Manner {
    #[default]
    Gives,
    Refuses,
    Hangs,
}

impl Origin {
    fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    async fn answer(&self) -> Result<(), Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let manner = *self.manner.lock().unwrap();
        match manner {
            Manner::Gives => Ok(()),
            Manner::Refuses => Err(Status::resource_exhausted("too many fetches are under way")),
            Manner::Hangs => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Fetch for Origin {
    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<FetchBlobResponse>, Status> {
        self.answer().await?;
        let uri = request.into_inner().uris.concat();
        Ok(Response::new(FetchBlobResponse { uri, ..FetchBlobResponse::default() }))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        self.answer().await?;
        let uri = request.into_inner().uris.concat();
        Ok(Response::new(FetchDirectoryResponse { uri, ..FetchDirectoryResponse::default() }))
    }
}

/// What `of` gets for a blob that another node is to fetch for it.
async fn fetch(rig: &Rig, of: &str, timeout: Duration) -> Option<String> {
    let key = Digest::of(Function::Sha256, b"any");
    let request = FetchBlobRequest {
        uris: vec!["https://files.example/x".to_owned()],
        ..FetchBlobRequest::default()
    };
    let answer = rig.node(of).assets.fetch(Asset::Blob, key, request, timeout).await;
    answer.map(|answer: FetchBlobResponse| answer.uri)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_fetches_for_all() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let names = ["a", "b", "c"];
    let fetches = join_all(names.map(|name| fetch(&rig, name, LONG))).await;
    let given = fetches.iter().flatten().collect::<Vec<_>>();
    assert_eq!(given, [&"https://files.example/x"; 2], "its owner is told to do it himself");
    let asked = names.map(|name| rig.node(name).origin.asked());
    assert!(asked.contains(&2) && asked.iter().sum::<usize>() == 2, "{asked:?}");
    // Directories have a call of their own.
    rig.leave_it_to("a", "b");
    let request = FetchDirectoryRequest { uris: vec!["x:y".to_owned()], ..Default::default() };
    let key = Digest::of(Function::Sha256, b"any");
    let answer = rig.node("a").assets.fetch(Asset::Directory, key, request, LONG).await;
    assert_eq!(answer.map(|answer: FetchDirectoryResponse| answer.uri).as_deref(), Some("x:y"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_refuses_is_done_without() {
    let rig = Rig::of(&["a", "b"]).await;
    rig.leave_it_to("a", "b");
    let origin = &rig.node("b").origin;
    origin.behave(Manner::Refuses);
    assert_eq!(fetch(&rig, "a", LONG).await, None);
    // It has answered: the next one asks it again.
    origin.behave(Manner::Gives);
    assert!(fetch(&rig, "a", LONG).await.is_some());
    assert_eq!(origin.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_hangs_is_waited_for_as_long_as_a_fetch_may_take() {
    let rig = Rig::punctual(&["a", "b"]).await;
    rig.leave_it_to("a", "b");
    let (node, timeout) = (rig.node("b"), Duration::from_millis(300));
    node.origin.behave(Manner::Hangs);
    let start = Instant::now();
    assert_eq!(fetch(&rig, "a", timeout).await, None);
    assert!(start.elapsed() >= timeout && start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    // What hangs is the fetch and not the node, which is still asked for whatever else there is.
    let before = rig.node("a").peers.stats().stepped_over;
    rig.node("a").read(&rig.stored(&["b"], 5_000).await).await;
    node.origin.behave(Manner::Gives);
    assert!(fetch(&rig, "a", timeout).await.is_some());
    assert_eq!((rig.node("a").peers.stats().stepped_over, node.origin.asked()), (before, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_dies_in_the_middle_is_done_without_at_once() {
    let deaths = [State::Cut, State::Hung].map(|state| async move {
        let rig = Rig::bounded(&["a", "b"]).await;
        rig.leave_it_to("a", "b");
        let node = rig.node("b");
        node.origin.behave(Manner::Hangs);
        let dying = async {
            until(|| node.origin.asked() == 1).await;
            node.link.set(state);
            Instant::now()
        };
        let (fetched, died) = tokio::join!(fetch(&rig, "a", LONG), dying);
        assert_eq!(fetched, None);
        // Its connection is found out by its silence, where it does not break.
        assert!(died.elapsed() < PATIENCE, "{state:?}: {:?}", died.elapsed());
    });
    join_all(deaths).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_not_there_costs_a_bounded_time_once() {
    let rig = Rig::bounded(&["a", "b"]).await;
    rig.leave_it_to("a", "b");
    rig.node("b").link.set(State::Hung);
    let start = Instant::now();
    let fetches = join_all((0..50).map(|_| fetch(&rig, "a", LONG))).await;
    assert!(fetches.iter().all(Option::is_none));
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(fetch(&rig, "a", LONG).await, None);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(rig.node("b").origin.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_leave_room_for_blobs() {
    let rig = Rig::of(&["a", "b"]).await;
    rig.leave_it_to("a", "b");
    rig.node("b").origin.behave(Manner::Hangs);
    let waiting = join_all((0..2_000).map(|_| fetch(&rig, "a", LONG)));
    let reading = async {
        until(|| rig.node("b").origin.asked() >= 256).await;
        rig.node("a").read(&rig.stored(&["b"], 5_000).await).await;
        rig.node("b").link.set(State::Cut);
    };
    let (waited, ()) = tokio::join!(waiting, reading);
    assert!(waited.iter().all(Option::is_none));
    assert_eq!(rig.node("b").origin.asked(), 256);
}
