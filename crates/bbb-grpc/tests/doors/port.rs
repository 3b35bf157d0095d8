//! What does not belong to one service: capabilities, health, headers, pages, and hostile bodies.

use std::time::Duration;

use bbb_grpc::Settings;
use bbb_reapi::{
    ToProto as _,
    proto::reapi::{
        FindMissingBlobsRequest, GetCapabilitiesRequest, capabilities_client::CapabilitiesClient,
        content_addressable_storage_client::ContentAddressableStorageClient,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::{FUNCTION, Room, Server, settings};

#[tokio::test]
async fn capabilities_are_true() {
    let server = Server::with(Settings { client_results: false, ..settings() }).await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let request = GetCapabilitiesRequest { instance_name: "any/name".into() };
    let all = client.get_capabilities(request).await.unwrap().into_inner();
    let low = all.low_api_version.unwrap();
    assert_eq!((low.major, low.minor), (2, 0));
    let cache = all.cache_capabilities.unwrap();
    assert_eq!(cache.digest_functions.len(), 7);
    assert!(!cache.action_cache_update_capabilities.unwrap().update_enabled);
    assert_eq!(cache.max_cas_blob_size_bytes, 1 << 30);
    assert!(all.execution_capabilities.unwrap().exec_enabled);
    let bad = GetCapabilitiesRequest { instance_name: "a/../b".into() };
    assert_eq!(client.get_capabilities(bad).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn health_is_told_by_service() {
    let server = Server::start().await;
    let mut client = HealthClient::new(server.channel.clone());
    for service in ["", bbb_grpc::cas::NAME, bbb_grpc::bytestream::NAME] {
        let request = HealthCheckRequest { service: service.into() };
        let status = client.check(request).await.unwrap().into_inner().status;
        assert_eq!(status, 1, "{service}");
    }
    let unknown = HealthCheckRequest { service: "unknown".into() };
    assert_eq!(client.check(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let server = Server::start().await;
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(futures::stream::iter([list])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list: {answer:?}");
    };
    assert!(list.service.iter().any(|service| service.name == bbb_grpc::cas::NAME));
}

/// What the server answers to some bytes, up to its end or a second's silence.
async fn raw(server: &Server, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn page(server: &Server, path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    raw(server, request.as_bytes()).await
}

#[tokio::test]
async fn browsers_share_the_port() {
    let server = Server::start().await;
    assert!(page(&server, "/healthz", "").await.starts_with("HTTP/1.1 200"));
    assert!(page(&server, "/nowhere", "").await.starts_with("HTTP/1.1 404"));
    let method = format!("/{}/FindMissingBlobs", bbb_grpc::cas::NAME);
    assert!(page(&server, &method, "").await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn the_required_header_is_required_of_all() {
    let required_header = Some("x-key=secret".parse().unwrap());
    let server = Server::with(Settings { required_header, ..settings() }).await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let refused = client.get_capabilities(GetCapabilitiesRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("--remote_header=x-key="), "{refused}");
    assert!(!refused.message().contains("secret"));
    for (value, passes) in [("secret", true), ("secre", false), ("Secret", false)] {
        let mut request = Request::new(GetCapabilitiesRequest::default());
        request.metadata_mut().insert("x-key", value.parse().unwrap());
        assert_eq!(client.get_capabilities(request).await.is_ok(), passes, "{value}");
    }
    assert!(page(&server, "/healthz", "").await.starts_with("HTTP/1.1 401"));
    assert!(page(&server, "/healthz", "x-key: secret\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let server = Server::start().await;
    let mut client = tonic::client::Grpc::new(server.channel.clone());
    for path in ["/no.such.Service/Method", "/google.bytestream.ByteStream/Append"] {
        client.ready().await.unwrap();
        let codec =
            tonic_prost::ProstCodec::<GetCapabilitiesRequest, GetCapabilitiesRequest>::default();
        let request = Request::new(GetCapabilitiesRequest::default());
        let path = http::uri::PathAndQuery::from_static(path);
        let refused = client.unary(request, path, codec).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
}

#[tokio::test]
async fn memory_is_shared_and_given_back() {
    // Less memory than one request wants: they take turns.
    let server = Server::within(Room { requests: 100 << 10, ..Room::default() }, settings()).await;
    let digests: Vec<_> = (0..3000u32)
        .map(|i| bbb_digest::Digest::of(FUNCTION, &i.to_be_bytes()).to_proto())
        .collect();
    let calls = (0..16).map(|_| {
        let mut client = ContentAddressableStorageClient::new(server.channel.clone());
        let blob_digests = digests.clone();
        async move {
            let request = FindMissingBlobsRequest { blob_digests, ..Default::default() };
            client.find_missing_blobs(request).await.unwrap().into_inner()
        }
    });
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.missing_blob_digests.len() == 3000));
}

/// The window of its connection that the server announces to a client, in bytes.
async fn announced_window(stream: &mut TcpStream) -> u64 {
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    const DEFAULT_WINDOW_BYTES: u64 = 65_535;
    let settings = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings].concat();
    stream.write_all(&hello).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == WINDOW_UPDATE && head[5..] == [0; 4] {
            let more = u32::from_be_bytes(payload.try_into().unwrap());
            return DEFAULT_WINDOW_BYTES + u64::from(more);
        }
    }
}

#[tokio::test]
async fn what_clients_may_send_ahead_is_bounded_over_all_connections() {
    const WINDOW_BYTES: u64 = 2 << 20;
    let server =
        Server::within(Room { windows: WINDOW_BYTES, ..Room::default() }, settings()).await;
    let mut open = Vec::new();
    let mut sum = 0;
    let mut waiting = loop {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The server's own client has one of the places, too.
        if open.len() == 7 {
            break stream;
        }
        let window = announced_window(&mut stream).await;
        assert!(window >= 128 << 10, "{window}");
        sum += window;
        open.push(stream);
    };
    assert!(sum <= WINDOW_BYTES, "{sum}");
    assert!(sum > WINDOW_BYTES / 2, "{sum}: what there is gets used");
    let answer = announced_window(&mut waiting);
    let mut answer = std::pin::pin!(answer);
    let early = timeout(Duration::from_millis(200), answer.as_mut()).await;
    assert!(early.is_err(), "a connection past the bound waits to be accepted");
    open.pop();
    timeout(Duration::from_secs(30), answer).await.expect("a place becomes free as one ends");
}

#[tokio::test]
async fn stops_when_it_is_asked_to() {
    let server = Server::start().await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    client.get_capabilities(GetCapabilitiesRequest::default()).await.unwrap();
    assert_eq!(server.tasks.shut_down(Duration::from_secs(10)).await, 0);
    assert!(TcpStream::connect(server.address).await.is_err());
}
