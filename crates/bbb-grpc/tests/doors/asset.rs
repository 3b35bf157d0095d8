//! The Remote Asset API: pushed and fetched again, fetched from a server, refused.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bbb_asset::{Assets, Kind, Origins, Reach, system_lookup};
use bbb_digest::{Digest, Function, InstanceName};
use bbb_grpc::{
    Budgets, Doors, Port,
    asset::{Asset, Elsewhere},
};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::{
    ToProto as _,
    proto::{
        asset::{
            FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, PushBlobRequest,
            PushDirectoryRequest, Qualifier, fetch_client::FetchClient, push_client::PushClient,
        },
        protobuf::Timestamp,
        reapi,
    },
    to_timestamp,
};
use bbb_storage::{CasExt as _, Disk, DiskSettings, Instances, Stores, TreeCache, Trees};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::support::{FUNCTION, settings};

struct Rig {
    fetch: FetchClient<Channel>,
    push: PushClient<Channel>,
    stores: Stores,
    tasks: TaskGroup,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start(takes_pushes: bool) -> Self {
        Self::beside(takes_pushes, None).await
    }

    async fn beside(takes_pushes: bool, elsewhere: Option<Arc<dyn Elsewhere>>) -> Self {
        let (folder, tasks) = (tempfile::tempdir().unwrap(), TaskGroup::new("asset"));
        let disk = Disk::open(DiskSettings::new(folder.path(), 1 << 30), &tasks).unwrap();
        let (near, cache) = (Arc::clone(&disk), Arc::new(TreeCache::new(1 << 20)));
        let instances = Arc::new(Instances::new(move |name| {
            let cas = near.cas(name);
            let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&cache)));
            Stores { cas, action_cache: near.action_cache(name), trees }
        }));
        let stores = instances.get(&InstanceName::default());
        let reach =
            Reach::new(vec!["127.0.0.1".parse().unwrap()], Vec::new(), Arc::new(|_: IpAddr| false));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let origins = Origins::with(reach, system_lookup(), Arc::new(tls));
        let near = Arc::clone(&disk);
        let records = Box::new(move |name: &InstanceName| near.assets(name));
        let assets = Assets::new(Arc::clone(&instances), records, disk, origins, 1 << 20, &tasks);
        let mut asset = Asset::new(assets, takes_pushes);
        if let Some(elsewhere) = elsewhere {
            asset = asset.with_elsewhere(elsewhere);
        }
        let doors =
            Doors::new(settings(), &Budgets::new(64 << 20, 32 << 20), instances).with_assets(asset);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        Port::new(32 << 20, doors).serve(listener, &tasks);
        Self {
            fetch: FetchClient::connect(address.clone()).await.unwrap(),
            push: PushClient::connect(address).await.unwrap(),
            stores,
            tasks,
            _folder: folder,
        }
    }

    async fn add(&self, bytes: &'static [u8]) -> Digest {
        let digest = Digest::of(FUNCTION, bytes);
        self.stores.cas.put(digest, bytes.to_vec().into()).await.unwrap();
        digest
    }

    async fn fetch(
        &mut self,
        uris: &[&str],
        pairs: &[(&str, &str)],
    ) -> Result<FetchBlobResponse, Status> {
        Ok(self.fetch.fetch_blob(request(uris, pairs)).await?.into_inner())
    }

    async fn push(
        &mut self,
        uris: &[&str],
        content: Digest,
        edit: impl FnOnce(&mut PushBlobRequest),
    ) -> Result<(), Status> {
        let mut request = PushBlobRequest {
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            blob_digest: Some(content.to_proto()),
            ..Default::default()
        };
        edit(&mut request);
        self.push.push_blob(request).await.map(drop)
    }
}

fn qualifiers(pairs: &[(&str, &str)]) -> Vec<Qualifier> {
    let pair =
        |(name, value): &(&str, &str)| Qualifier { name: (*name).into(), value: (*value).into() };
    pairs.iter().map(pair).collect()
}

fn request(uris: &[&str], pairs: &[(&str, &str)]) -> FetchBlobRequest {
    FetchBlobRequest {
        uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        qualifiers: qualifiers(pairs),
        ..Default::default()
    }
}

fn code(response: &FetchBlobResponse) -> Code {
    Code::from(response.status.as_ref().unwrap().code)
}

fn in_seconds(seconds: u64) -> Option<Timestamp> {
    Some(to_timestamp(SystemTime::now() + Duration::from_secs(seconds)))
}

#[tokio::test]
async fn what_was_pushed_is_fetched_by_any_of_its_uris() {
    let mut rig = Rig::start(true).await;
    let blob = rig.add(b"pushed").await;
    let uris = ["urn:a:b", "https://example.invalid/x"];
    let expires = in_seconds(3600);
    rig.push(&uris, blob, |push| {
        push.qualifiers = qualifiers(&[("my.own", "1")]);
        push.expire_at = expires;
    })
    .await
    .unwrap();
    for uri in uris {
        let response = rig.fetch(&["urn:not:there", uri], &[("my.own", "1")]).await.unwrap();
        assert_eq!((code(&response), &*response.uri), (Code::Ok, uri));
        assert_eq!(response.blob_digest, Some(blob.to_proto()));
        assert_eq!(response.expires_at.map(|at| at.seconds), expires.map(|at| at.seconds));
        assert_eq!(response.digest_function, reapi::digest_function::Value::Sha256 as i32);
    }
    let response = rig.fetch(&["urn:a:b"], &[]).await.unwrap();
    assert_eq!((code(&response), response.blob_digest), (Code::NotFound, None));
    let other = FetchBlobRequest { instance_name: "other".into(), ..request(&["urn:a:b"], &[]) };
    let other = rig.fetch.fetch_blob(other).await.unwrap().into_inner();
    assert_eq!(code(&other), Code::NotFound);
    // Pushed as a blob, it is no directory.
    let directory = FetchDirectoryRequest { uris: vec!["urn:a:b".into()], ..Default::default() };
    let directory = rig.fetch.fetch_directory(directory).await.unwrap().into_inner();
    assert_eq!(directory.status.unwrap().code, Code::NotFound as i32);
    assert_eq!(rig.tasks.shut_down(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn a_new_push_takes_the_place_of_the_old_and_what_has_expired_is_gone() {
    let mut rig = Rig::start(true).await;
    let (old, new) = (rig.add(b"old").await, rig.add(b"new").await);
    rig.push(&["urn:a:b"], old, |_| {}).await.unwrap();
    rig.push(&["urn:a:b"], new, |_| {}).await.unwrap();
    let response = rig.fetch(&["urn:a:b"], &[]).await.unwrap();
    assert_eq!((response.blob_digest, response.expires_at), (Some(new.to_proto()), None));
    let newest =
        FetchBlobRequest { oldest_content_accepted: in_seconds(60), ..request(&["urn:a:b"], &[]) };
    let newest = rig.fetch.fetch_blob(newest).await.unwrap().into_inner();
    assert_eq!(code(&newest), Code::NotFound);
    let long_ago = Some(Timestamp { seconds: 1, nanos: 0 });
    rig.push(&["urn:a:b"], new, |push| push.expire_at = long_ago).await.unwrap();
    assert_eq!(code(&rig.fetch(&["urn:a:b"], &[]).await.unwrap()), Code::NotFound);
}

#[tokio::test]
async fn only_what_is_whole_is_pushed() {
    let mut rig = Rig::start(true).await;
    let (here, lost) = (rig.add(b"here").await, Digest::of(FUNCTION, b"lost"));
    let refused = rig.push(&["urn:a:b"], lost, |_| {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let subject = format!("blobs/{lost}");
    assert_eq!(refused.get_details_precondition_failure().unwrap().violations[0].subject, subject);
    let with_lost =
        rig.push(&["urn:a:b"], here, |push| push.references_blobs = vec![lost.to_proto()]).await;
    assert_eq!(with_lost.unwrap_err().code(), Code::FailedPrecondition);
    // As many may be named as are taken.
    let many = |push: &mut PushBlobRequest| push.references_blobs = vec![here.to_proto(); 10_000];
    assert_eq!(rig.push(&["urn:many"], here, many).await.map_err(|status| status.code()), Ok(()));
    // A tree is whole with all that is below its root.
    let file = |digest: Digest| reapi::FileNode {
        name: "f".into(),
        digest: Some(digest.to_proto()),
        ..Default::default()
    };
    for (file, expected) in [(file(lost), Code::FailedPrecondition), (file(here), Code::Ok)] {
        let root = reapi::Directory { files: vec![file], ..Default::default() }.encode_to_vec();
        let digest = Digest::of(FUNCTION, &root);
        rig.stores.cas.put(digest, root.into()).await.unwrap();
        let push = PushDirectoryRequest {
            uris: vec!["urn:tree".into()],
            root_directory_digest: Some(digest.to_proto()),
            ..Default::default()
        };
        let pushed = rig.push.push_directory(push).await;
        assert_eq!(pushed.map_or_else(|status| status.code(), |_| Code::Ok), expected);
        let fetch = FetchDirectoryRequest { uris: vec!["urn:tree".into()], ..Default::default() };
        let fetched = rig.fetch.fetch_directory(fetch).await.unwrap().into_inner();
        let found = (expected == Code::Ok).then(|| digest.to_proto());
        assert_eq!(fetched.root_directory_digest, found);
    }
}

#[tokio::test]
async fn a_node_that_trusts_workers_alone_takes_no_pushes() {
    let mut rig = Rig::start(false).await;
    let blob = rig.add(b"x").await;
    let refused = rig.push(&["urn:a:b"], blob, |_| {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // Clients probe by what is invalid.
    let probed = rig.push.push_blob(PushBlobRequest::default()).await.unwrap_err();
    assert_eq!(probed.code(), Code::InvalidArgument);
    assert_eq!(rig.fetch(&[], &[]).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_by_its_field() {
    let mut rig = Rig::start(true).await;
    let uri = "https://example.invalid/x";
    for (uris, pairs, field) in [
        (&["no scheme"][..], &[][..], "uris[0]"),
        (&[uri, ""], &[], "uris[1]"),
        (&[uri], &[("checksum.sri", "md5-x")], "qualifiers[checksum.sri]"),
        (&[uri], &[("a", "b"), ("a", "b")], "qualifiers.name"),
        (&[uri], &[("unheard.of", "b")], "qualifiers.name"),
        (&[uri], &[("http_header:Host", "b")], "qualifiers[http_header:Host]"),
    ] {
        let refused = rig.fetch(uris, pairs).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}");
        let violations = refused.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field);
        if pairs == [("unheard.of", "b")] {
            assert_eq!(violations[0].description, "\"unheard.of\" not supported");
        }
    }
    let negative = FetchBlobRequest {
        timeout: Some(bbb_reapi::proto::protobuf::Duration { seconds: -1, nanos: 0 }),
        ..request(&[uri], &[])
    };
    let refused = rig.fetch.fetch_blob(negative).await.unwrap_err();
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "timeout");
}

#[tokio::test]
async fn what_an_origin_says_is_told_within_the_response() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = TaskGroup::new("origin");
    tasks.spawn("origin", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer: &[u8] = match head.starts_with(b"GET /a ") {
                true => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
                false => b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nsorry",
            };
            stream.write_all(answer).await.unwrap();
        }
    });
    let mut rig = Rig::start(true).await;
    let (good, bad) = (format!("http://{address}/a"), format!("http://{address}/b"));
    let by_blake3 = FetchBlobRequest {
        digest_function: reapi::digest_function::Value::Blake3 as i32,
        ..request(&[&bad, &good], &[])
    };
    let found = rig.fetch.fetch_blob(by_blake3).await.unwrap().into_inner();
    let digest = Digest::of(Function::Blake3, b"hello");
    assert_eq!((code(&found), &found.uri), (Code::Ok, &good));
    assert_eq!(found.blob_digest, Some(digest.to_proto()));
    assert_eq!(found.digest_function, reapi::digest_function::Value::Blake3 as i32);
    assert_eq!(rig.stores.cas.get_bytes(digest, 5).await.unwrap(), "hello");
    let lost = rig.fetch(&[&bad], &[]).await.unwrap();
    assert_eq!((code(&lost), &lost.uri, &lost.blob_digest), (Code::NotFound, &bad, &None));
    let told = lost.status.unwrap().message;
    assert!(told.contains("404") && told.contains(&bad), "{told}");
}

/// A cluster whose owner of everything answers, or not.
#[derive(Debug, Default)]
struct Owner {
    answer: Mutex<Option<FetchBlobResponse>>,
    asked: Mutex<Vec<(Kind, Digest, FetchBlobRequest)>>,
}

#[tonic::async_trait]
impl Elsewhere for Owner {
    async fn fetch(
        &self,
        kind: Kind,
        key: Digest,
        timeout: Duration,
        request: FetchBlobRequest,
    ) -> Option<FetchBlobResponse> {
        assert_eq!(timeout, Duration::from_secs(600));
        self.asked.lock().unwrap().push((kind, key, request));
        self.answer.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn what_is_not_here_is_fetched_by_its_owner() {
    let owner = Arc::new(Owner::default());
    let mut rig = Rig::beside(true, Some(Arc::clone(&owner) as _)).await;
    let (uri, header) = ("http://10.0.0.1/x", ("http_header:X-Token", "secret"));
    // Nobody answers: it is tried here.
    assert_eq!(code(&rig.fetch(&[uri], &[header]).await.unwrap()), Code::PermissionDenied);
    let answer = FetchBlobResponse { uri: "answered".into(), ..Default::default() };
    *owner.answer.lock().unwrap() = Some(answer.clone());
    assert_eq!(rig.fetch(&[uri], &[header]).await.unwrap(), answer);
    rig.fetch(&[uri], &[]).await.unwrap();
    {
        let asked = owner.asked.lock().unwrap();
        assert_eq!(asked.len(), 3);
        assert_eq!(asked[1], (Kind::Blob, asked[0].1, request(&[uri], &[header])));
        assert_ne!(asked[2].1, asked[1].1, "with other headers it may be something else");
    }
    // What is here, or cannot be fetched at all, is nobody else's business.
    let blob = rig.add(b"pushed").await;
    rig.push(&[uri], blob, |_| {}).await.unwrap();
    assert_eq!(rig.fetch(&[uri], &[]).await.unwrap().blob_digest, Some(blob.to_proto()));
    assert_eq!(code(&rig.fetch(&["urn:a:b"], &[]).await.unwrap()), Code::NotFound);
    assert!(rig.fetch(&["http://10.0.0.1/y"], &[("unheard.of", "")]).await.is_err());
    assert_eq!(owner.asked.lock().unwrap().len(), 3);
    // A directory of the same name is something else.
    let directory = FetchDirectoryRequest { uris: vec![uri.to_owned()], ..Default::default() };
    let answered = rig.fetch.fetch_directory(directory).await.unwrap().into_inner();
    assert_eq!(answered.uri, "answered");
    let asked = owner.asked.lock().unwrap();
    assert_eq!((asked[3].0, &asked[3].2), (Kind::Directory, &request(&[uri], &[])));
    assert_ne!(asked[3].1, asked[2].1);
}
