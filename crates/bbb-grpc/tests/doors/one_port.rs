//! One port for clients in plain text and under TLS and for other nodes: who finds what, and who is hung up on.

use std::{
    collections::BTreeSet, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration,
};

use axum::{body::Body, response::IntoResponse as _};
use bbb_digest::{Digest, InstanceName};
use bbb_grpc::{Budgets, ClientTls, Doors, Port, Settings, TlsFiles};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::{
    ToProto as _,
    proto::reapi::{
        FindMissingBlobsRequest, GetActionResultRequest, GetCapabilitiesRequest,
        action_cache_client::ActionCacheClient, capabilities_client::CapabilitiesClient,
        content_addressable_storage_client::ContentAddressableStorageClient,
    },
};
use http::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};
use tonic::{
    Code, Status,
    server::NamedService,
    transport::{Channel, Endpoint, server::TcpConnectInfo},
};
use tower::service_fn;

use crate::{
    certificates::{Authority, Leaf},
    support::{FUNCTION, Memory, memories, noise, settings},
};

/// What other nodes offer as their protocol.
const NODE: &[u8] = b"test-node/1";

const WINDOW_BYTES: u64 = 4 << 20;

/// A port with all that it may have.
struct Rig {
    address: SocketAddr,
    tasks: TaskGroup,
    folder: tempfile::TempDir,
    /// What was said of nodes that were not let in.
    refusals: watch::Receiver<Vec<String>>,
    /// Whom clients and the node trust for clients.
    of_clients: Authority,
    /// Whom nodes trust.
    of_nodes: Authority,
    long: Arc<Memory>,
    short: Arc<Memory>,
    near: Arc<Memory>,
}

#[derive(Clone, Copy, PartialEq)]
enum Tls {
    No,
    Yes,
    Mutual,
}

impl Rig {
    async fn start(tls: Tls) -> Self {
        Self::with(tls, settings()).await
    }

    async fn with(tls: Tls, settings: Settings) -> Self {
        let (of_clients, of_nodes) = (Authority::new("clients"), Authority::new("nodes"));
        let folder = tempfile::tempdir().unwrap();
        let budgets = Budgets::new(16 << 20, 16 << 20);
        let stores: [_; 3] = std::array::from_fn(|_| memories());
        let [long, short, near] = [0, 1, 2].map(|stack: usize| Arc::clone(&stores[stack].1));
        let max = settings.max_blob_bytes;
        let nodes = Doors::for_nodes(max, &budgets, short, None)
            .with_service(Echo)
            .with_doors_under("/near", Doors::for_nodes_near(max, &budgets, near));
        let (refused, refusals) = watch::channel(Vec::new());
        let mut port = Port::new(WINDOW_BYTES, Doors::new(settings, &budgets, long))
            .with_nodes(nodes, of_nodes.server(&of_nodes.leaf(), NODE))
            .on_refused_node(move |_, error| {
                refused.send_modify(|all| all.push(error.to_string()));
            });
        if tls != Tls::No {
            let [cert, key, client_ca] = of_clients.leaf().write(folder.path(), &of_clients);
            let client_ca = (tls == Tls::Mutual).then_some(client_ca);
            let files = TlsFiles { cert, key, client_ca };
            port = port.with_client_tls(Arc::new(ClientTls::open(files).unwrap()));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = TaskGroup::new("doors");
        port.serve(listener, &tasks);
        let [long, short, near] = stores.map(|(memories, _)| {
            let mut memories = memories.lock().unwrap();
            Arc::clone(memories.entry(InstanceName::default()).or_default())
        });
        Self { address, tasks, folder, refusals, of_clients, of_nodes, long, short, near }
    }

    async fn plain(&self) -> Channel {
        let endpoint = Endpoint::new(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn tls(
        &self,
        trust: &Authority,
        leaf: Option<&Leaf>,
        protocols: &[&[u8]],
    ) -> io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(trust.client(leaf, protocols));
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, self.tcp().await).await
    }

    /// A client under TLS.
    async fn client(&self, leaf: Option<&Leaf>) -> Result<Channel, Box<dyn std::error::Error>> {
        channel(self.tls(&self.of_clients, leaf, &[b"h2"]).await?).await
    }

    /// Another node, if this is a certificate of one.
    async fn node(&self, leaf: Option<&Leaf>) -> Result<Channel, Box<dyn std::error::Error>> {
        channel(self.tls(&self.of_nodes, leaf, &[NODE]).await?).await
    }
}

/// gRPC over this connection alone.
async fn channel<I>(io: I) -> Result<Channel, Box<dyn std::error::Error>>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut io = Some(TokioIo::new(io));
    let connect = move |_: Uri| {
        let io = io.take().ok_or(io::Error::from(io::ErrorKind::NotConnected));
        async move { io }
    };
    Ok(Endpoint::from_static("http://node").connect_with_connector(service_fn(connect)).await?)
}

/// A service of nodes, which tells where it is called from.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Node";
}

impl tower::Service<Request<tonic::body::Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let info = request.extensions().get::<TcpConnectInfo>().unwrap();
        let from = info.remote_addr().unwrap().to_string();
        let status = Status::already_exists(from);
        std::future::ready(Ok(status.into_http::<Body>().into_response()))
    }
}

/// How a call of a method ends that takes any message.
async fn called<S>(service: S, path: &'static str) -> Status
where
    S: tonic::client::GrpcService<tonic::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Debug,
    S::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error:
        Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let mut client = tonic::client::Grpc::new(service);
    client.ready().await.unwrap();
    let codec =
        tonic_prost::ProstCodec::<GetCapabilitiesRequest, GetCapabilitiesRequest>::default();
    let request = tonic::Request::new(GetCapabilitiesRequest::default());
    let answer = client.unary(request, http::uri::PathAndQuery::from_static(path), codec).await;
    answer.map_or_else(|status| status, |_| Status::ok(""))
}

async fn has(channel: Channel, origin: &'static str, digest: Digest) -> bool {
    let origin = Uri::from_static(origin);
    let mut client = ContentAddressableStorageClient::with_origin(channel, origin);
    let blob_digests = vec![digest.to_proto()];
    let request = FindMissingBlobsRequest { blob_digests, ..Default::default() };
    client.find_missing_blobs(request).await.unwrap().into_inner().missing_blob_digests.is_empty()
}

/// What comes back for a request of HTTP/1.
async fn page<I>(mut io: I, path: &str) -> String
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(20), io.read_to_end(&mut answer)).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn capabilities(channel: Channel) -> Result<(), Status> {
    let mut client = CapabilitiesClient::new(channel);
    client.get_capabilities(GetCapabilitiesRequest::default()).await.map(|_| ())
}

#[tokio::test]
async fn clients_and_nodes_find_doors_of_their_own() {
    for tls in [Tls::No, Tls::Yes, Tls::Mutual] {
        let rig = Rig::start(tls).await;
        let of_client = rig.of_clients.leaf();
        let client = match tls {
            Tls::No => rig.plain().await,
            Tls::Yes => rig.client(None).await.unwrap(),
            Tls::Mutual => rig.client(Some(&of_client)).await.unwrap(),
        };
        let node = rig.node(Some(&rig.of_nodes.leaf())).await.unwrap();
        let of_long = rig.long.add("long");
        let of_short = rig.short.add("short");
        let of_near = rig.near.add("near");
        for (channel, origin, found) in [
            (&client, "http://node", of_long),
            (&node, "http://node", of_short),
            (&node, "http://node/near", of_near),
        ] {
            for digest in [of_long, of_short, of_near] {
                assert_eq!(has(channel.clone(), origin, digest).await, digest == found, "{origin}");
            }
        }
        // What is the others' is not there.
        for path in [
            "/test.Node/Any",
            "/near/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
        ] {
            assert_eq!(called(client.clone(), path).await.code(), Code::Unimplemented, "{path}");
        }
        for path in [
            "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/build.bazel.remote.asset.v1.Fetch/FetchBlob",
            "/near/build.bazel.remote.execution.v2.ActionCache/GetActionResult",
            "/near/test.Node/Any",
        ] {
            assert_eq!(called(node.clone(), path).await.code(), Code::Unimplemented, "{path}");
        }
        capabilities(client).await.unwrap();
        let told = called(node.clone(), "/test.Node/Any").await;
        assert_eq!(told.code(), Code::AlreadyExists);
        assert!(told.message().starts_with("127.0.0.1:"), "{told}");
        let action_digest = Some(of_near.to_proto());
        let request = GetActionResultRequest { action_digest, ..Default::default() };
        let result = ActionCacheClient::new(node).get_action_result(request).await;
        assert_eq!(result.unwrap_err().code(), Code::NotFound);
        assert_eq!(rig.tasks.shut_down(Duration::from_secs(10)).await, 0);
    }
}

#[tokio::test]
async fn nodes_are_not_asked_for_the_clients_header() {
    let required_header = Some("x-key=secret".parse().unwrap());
    let rig =
        Rig::with(Tls::No, Settings { required_header, client_results: false, ..settings() }).await;
    assert_eq!(capabilities(rig.plain().await).await.unwrap_err().code(), Code::Unauthenticated);
    let node = rig.node(Some(&rig.of_nodes.leaf())).await.unwrap();
    assert!(!has(node, "http://node/near", Digest::of(FUNCTION, b"x")).await);
}

#[tokio::test]
async fn who_is_no_node_is_not_let_in_as_one() {
    for tls in [Tls::No, Tls::Mutual] {
        let mut rig = Rig::start(tls).await;
        let foreign = Authority::new("foreign").leaf();
        // The same name makes no difference.
        let forged = Authority::new("nodes").leaf();
        let of_client = rig.of_clients.leaf();
        for leaf in [None, Some(&foreign), Some(&forged), Some(&of_client)] {
            let refused = match rig.node(leaf).await {
                Ok(channel) => {
                    called(channel, "/test.Node/Any").await.code() != Code::AlreadyExists
                }
                Err(_) => true,
            };
            assert!(refused);
        }
        let said = rig.refusals.wait_for(|said| said.len() == 4).await.unwrap().clone();
        let sorted: BTreeSet<_> = said.iter().map(String::as_str).collect();
        assert_eq!(sorted.len(), 3, "{said:?}");
        assert!(sorted.contains("peer sent no certificates"), "{said:?}");
        assert!(rig.node(Some(&rig.of_nodes.leaf())).await.is_ok());
    }
}

#[tokio::test]
async fn clients_without_a_certificate_are_not_let_in_where_one_is_asked_for() {
    let rig = Rig::start(Tls::Mutual).await;
    let foreign = Authority::new("foreign").leaf();
    let of_node = rig.of_nodes.leaf();
    for leaf in [None, Some(&foreign), Some(&of_node)] {
        let refused = match rig.client(leaf).await {
            Ok(channel) => capabilities(channel).await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
    }
    capabilities(rig.client(Some(&rig.of_clients.leaf())).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn browsers_share_the_port_under_tls() {
    let rig = Rig::start(Tls::Yes).await;
    for protocols in [&[b"http/1.1".as_slice()][..], &[]] {
        let io = rig.tls(&rig.of_clients, None, protocols).await.unwrap();
        assert!(page(io, "/healthz").await.starts_with("HTTP/1.1 200"));
    }
    let both = rig.tls(&rig.of_clients, None, &[b"http/1.1", b"h2"]).await.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    assert!(rig.tls(&rig.of_clients, None, &[b"spdy/3"]).await.is_err());
    assert!(rig.folder.path().exists());
}

#[tokio::test]
async fn plain_text_is_told_to_use_tls() {
    let rig = Rig::start(Tls::Yes).await;
    let told = page(rig.tcp().await, "/healthz").await;
    assert!(told.starts_with("HTTP/1.1 400") && told.contains("use grpcs://"), "{told}");
    let refused = capabilities(rig.plain().await).await.unwrap_err();
    assert!(refused.message().contains("use grpcs://"), "{refused}");
}

#[tokio::test]
async fn tls_is_turned_down_where_there_is_none() {
    let rig = Rig::start(Tls::No).await;
    let refused = rig.tls(&rig.of_clients, None, &[b"h2"]).await.unwrap_err().to_string();
    assert!(refused.contains("HandshakeFailure"), "{refused}");
    capabilities(rig.plain().await).await.unwrap();
}

#[tokio::test]
async fn garbage_is_hung_up_on() {
    for tls in [Tls::No, Tls::Yes] {
        let rig = Rig::start(tls).await;
        let hello = [b"\x16\x03\x01\x40\x00".as_slice(), &noise(16_384)].concat();
        for bytes in [
            b"\0\0\0\0\r\n\r\n".as_slice(),
            b"\x16\x03\x01\x00\x00",
            &hello,
            b"\x16\xff\xff\xff\xff",
        ] {
            let mut stream = rig.tcp().await;
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            let end = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
            let _ = end.await.expect("an end");
            assert!(answer.len() < 200, "{answer:?}");
        }
        assert!(rig.node(Some(&rig.of_nodes.leaf())).await.is_ok());
    }
}

#[tokio::test]
async fn who_says_too_little_takes_nobodys_place_and_is_hung_up_on() {
    // Room for 16 connections.
    let rig = Rig::start(Tls::Yes).await;
    let mut slow = Vec::new();
    for bytes in
        [b"".as_slice(), b"P", b"PRI * HTTP/2.0\r\n", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"]
    {
        for _ in 0..20 {
            let mut stream = rig.tcp().await;
            stream.write_all(bytes).await.unwrap();
            slow.push(stream);
        }
    }
    // Under TLS, too, a client has to say something.
    for _ in 0..20 {
        let tls = rig.tls(&rig.of_clients, None, &[b"h2"]).await.unwrap();
        slow.push(tls.into_inner().0);
    }
    let served = async {
        capabilities(rig.client(None).await.unwrap()).await.unwrap();
        rig.node(Some(&rig.of_nodes.leaf())).await.unwrap();
    };
    timeout(Duration::from_secs(5), served).await.expect("nobody waits for them");
    let ends = slow.into_iter().map(|mut stream| async move {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let ends = futures::future::join_all(ends);
    timeout(Duration::from_secs(30), ends).await.expect("they are hung up on");
}

#[tokio::test]
async fn clients_that_take_all_places_leave_some_to_nodes() {
    let rig = Rig::start(Tls::No).await;
    let mut clients = Vec::new();
    // The last of them waits.
    while let Ok(channel) = timeout(Duration::from_secs(1), async {
        let channel = rig.plain().await;
        capabilities(channel.clone()).await.unwrap();
        channel
    })
    .await
    {
        clients.push(channel);
        assert!(clients.len() < 16);
    }
    assert!(clients.len() > 8, "{}", clients.len());
    let node = rig.node(Some(&rig.of_nodes.leaf())).await.unwrap();
    assert_eq!(called(node, "/test.Node/Any").await.code(), Code::AlreadyExists);
}
