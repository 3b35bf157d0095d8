use std::sync::{Arc, atomic::Ordering};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_grpc::{Budgets, Doors};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::{
    ToProto as _, function_code,
    proto::protobuf,
    proto::reapi::{
        self, BatchReadBlobsRequest, BatchUpdateBlobsRequest, FindMissingBlobsRequest,
        GetChunkMappingRequest, GetTreeRequest, RegisterChunkMappingRequest, SpliceBlobRequest,
        SplitBlobRequest, batch_update_blobs_request as update, chunking_function, compressor,
        content_addressable_storage_client::ContentAddressableStorageClient, digest_function,
    },
};
use bbb_storage::zstd;
use futures::stream;
use http_body_util::BodyExt as _;
use prost::Message as _;
use tonic::{Code, Status, transport::Channel};
use tower::ServiceExt as _;

use crate::support::{
    FUNCTION, Memory, Room, Server, all_get_their_turn, memories, noise, settings,
};

type Client = ContentAddressableStorageClient<Channel>;

const SHA256: i32 = digest_function::Value::Sha256 as i32;

fn client(server: &Server) -> Client {
    // What clients take unless told otherwise.
    ContentAddressableStorageClient::new(server.channel.clone()).max_decoding_message_size(4 << 20)
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn missing_blobs_are_found() {
    let server = Server::start().await;
    let mut client = client(&server);
    let there: Vec<_> =
        (0..100u32).map(|i| server.memory().add(i.to_be_bytes().to_vec())).collect();
    let absent = Digest::of(FUNCTION, b"absent");
    let empty = Digest::empty(FUNCTION);
    let all = there.iter().chain([&absent, &absent, &empty]).map(|digest| digest.to_proto());
    let request = FindMissingBlobsRequest { blob_digests: all.collect(), ..Default::default() };
    let missing = client.find_missing_blobs(request).await.unwrap().into_inner();
    assert_eq!(missing.missing_blob_digests, [absent.to_proto()]);
    let none = client.find_missing_blobs(FindMissingBlobsRequest::default()).await.unwrap();
    assert!(none.into_inner().missing_blob_digests.is_empty());
}

#[tokio::test]
async fn malformed_digests_and_instances_are_invalid() {
    let server = Server::start().await;
    let mut client = client(&server);
    let good = Digest::of(FUNCTION, b"x").to_proto();
    for (digest, instance_name, digest_function) in [
        (reapi::Digest { hash: "xyz".into(), size_bytes: 1 }, "", 0),
        (reapi::Digest { hash: good.hash.to_uppercase(), size_bytes: 1 }, "", 0),
        (reapi::Digest { size_bytes: -1, ..good.clone() }, "", 0),
        (reapi::Digest { size_bytes: i64::MAX, ..good.clone() }, "", 0),
        (good.clone(), "../x", 0),
        (good.clone(), "", digest_function::Value::Md5 as i32),
        (good.clone(), "", 99),
        (good.clone(), "", digest_function::Value::Sha1 as i32),
    ] {
        let request = FindMissingBlobsRequest {
            instance_name: instance_name.into(),
            blob_digests: vec![digest.clone()],
            digest_function,
        };
        let refused = client.find_missing_blobs(request).await;
        assert_eq!(code(refused), Code::InvalidArgument, "{digest:?} {instance_name}");
    }
    server.memory().broken.store(true, Ordering::Relaxed);
    let request = FindMissingBlobsRequest { blob_digests: vec![good], ..Default::default() };
    assert_eq!(code(client.find_missing_blobs(request).await), Code::Unavailable);
}

fn one(digest: Digest, data: &[u8], compressor: compressor::Value) -> update::Request {
    update::Request {
        digest: Some(digest.to_proto()),
        data: data.to_vec(),
        compressor: compressor as i32,
    }
}

#[tokio::test]
async fn batches_go_both_ways_and_each_blob_has_its_status() {
    let server = Server::start().await;
    let mut client = client(&server);
    let plain = Digest::of(FUNCTION, b"plain");
    let packed = Digest::of(FUNCTION, &[7; 5000]);
    let absent = Digest::of(FUNCTION, b"absent");
    let identity = compressor::Value::Identity;
    let requests = vec![
        one(plain, b"plain", identity),
        one(packed, &zstd::encode_bytes(&[7; 5000]).unwrap(), compressor::Value::Zstd),
        one(absent, b"changd", identity),
        one(absent, b"no", identity),
        one(absent, b"no zstd", compressor::Value::Zstd),
        one(absent, b"absent", compressor::Value::Brotli),
        update::Request { data: b"no digest".to_vec(), ..Default::default() },
        one(Digest::empty(FUNCTION), b"", identity),
    ];
    let request = BatchUpdateBlobsRequest { requests, ..Default::default() };
    let response = client.batch_update_blobs(request).await.unwrap().into_inner();
    let codes: Vec<i32> =
        response.responses.iter().map(|response| response.status.as_ref().unwrap().code).collect();
    let bad = Code::InvalidArgument as i32;
    assert_eq!(codes, [0, 0, bad, bad, bad, bad, bad, 0]);
    assert_eq!(response.responses[0].digest, Some(plain.to_proto()));
    assert!(!server.memory().has(absent));
    for as_zstd in [false, true] {
        server.memory().as_zstd.store(as_zstd, Ordering::Relaxed);
        for accepts in [vec![], vec![compressor::Value::Zstd as i32]] {
            let digests = [plain, packed, absent, Digest::empty(FUNCTION)];
            let request = BatchReadBlobsRequest {
                digests: digests.map(|digest| digest.to_proto()).to_vec(),
                acceptable_compressors: accepts.clone(),
                ..Default::default()
            };
            let responses = client.batch_read_blobs(request).await.unwrap().into_inner().responses;
            let read = |index: usize| {
                let response: &reapi::batch_read_blobs_response::Response = &responses[index];
                assert_eq!(response.digest, Some(digests[index].to_proto()));
                assert_eq!(response.status.as_ref().unwrap().code, 0);
                match response.compressor {
                    0 => response.data.clone(),
                    _ => {
                        assert!(!accepts.is_empty());
                        let size = digests[index].size_bytes() as usize;
                        zstd::decode_bytes(&response.data, size).unwrap().to_vec()
                    }
                }
            };
            assert_eq!((read(0), read(1), read(3)), (b"plain".to_vec(), vec![7; 5000], vec![]));
            let status = responses[2].status.as_ref().unwrap();
            assert_eq!(status.code, Code::NotFound as i32);
            if !accepts.is_empty() {
                assert_eq!(responses[1].compressor, compressor::Value::Zstd as i32);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_not_taken_stay_within_their_memory() {
    let (memories, instances) = memories();
    let memory = Arc::clone(memories.lock().unwrap().entry(InstanceName::default()).or_default());
    let digests = vec![memory.add(noise(900 << 10)).to_proto()];
    let message = BatchReadBlobsRequest { digests, ..Default::default() }.encode_to_vec();
    let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let tasks = TaskGroup::new("doors");
    // Replies have 1.5 MiB of it, of which one that waits to be taken has 900 KiB.
    let doors = Doors::new(settings(), &Budgets::new(6 << 20, 1 << 20), instances);
    let router = doors.into_router(tasks.stop());
    let call = async || {
        let request = http::Request::post(format!("/{}/BatchReadBlobs", bbb_grpc::cas::NAME))
            .header("content-type", "application/grpc")
            .body(axum::body::Body::from(frame.clone()));
        let response = router.clone().oneshot(request.unwrap()).await.unwrap();
        let refused = response.headers().get("grpc-status").map(|code| code.as_bytes().to_vec());
        (refused, response)
    };
    let (refused, slow) = call().await;
    assert_eq!(refused, None);
    let exhausted = (Code::ResourceExhausted as i32).to_string().into_bytes();
    assert_eq!(call().await.0, Some(exhausted));
    let sent = slow.into_body().collect().await.unwrap();
    assert!(sent.to_bytes().len() > 900 << 10);
    assert_eq!(call().await.0, None);
}

#[tokio::test]
async fn a_large_batch_may_be_missing_as_a_whole() {
    let server = Server::start().await;
    let absent = |i: u32| Digest::of(FUNCTION, &i.to_be_bytes()).to_proto();
    let request =
        BatchReadBlobsRequest { digests: (0..40_000).map(absent).collect(), ..Default::default() };
    let read = client(&server).batch_read_blobs(request).await.unwrap().into_inner();
    assert_eq!(read.responses.len(), 40_000);
    let missing = |response: &reapi::batch_read_blobs_response::Response| {
        response.status.as_ref().is_some_and(|status| status.code == Code::NotFound as i32)
    };
    assert!(read.responses.iter().all(missing));
}

#[tokio::test]
async fn a_batch_that_needs_all_memory_gets_it() {
    let server = Server::within(Room { requests: 6 << 20, ..Room::default() }, settings()).await;
    let blobs = (0..100u8).map(|byte| server.memory().add(vec![byte; 31 << 10]));
    let digests = blobs.map(|digest| digest.to_proto()).collect();
    let request = BatchReadBlobsRequest { digests, ..Default::default() };
    let read = client(&server).batch_read_blobs(request).await.unwrap().into_inner();
    assert_eq!(read.responses.len(), 100);
}

#[tokio::test]
async fn what_exceeds_the_announced_limit_is_invalid_and_what_does_not_gets_through() {
    let server = Server::start().await;
    let mut client = client(&server);
    let limit = bbb_grpc::limits::MAX_BATCH_BYTES as usize;
    let data = noise(limit + 1);
    let identity = compressor::Value::Identity;
    // As many small blobs as make up the limit, and one that is as large.
    let small: Vec<_> = data[..limit].chunks(1024).map(<[u8]>::to_vec).collect();
    for blobs in [small, vec![data[..limit].to_vec()]] {
        let digests: Vec<_> = blobs.iter().map(|blob| Digest::of(FUNCTION, blob)).collect();
        let requests =
            digests.iter().zip(&blobs).map(|(digest, blob)| one(*digest, blob, identity));
        let request =
            BatchUpdateBlobsRequest { requests: requests.collect(), ..Default::default() };
        let responses = client.batch_update_blobs(request).await.unwrap().into_inner().responses;
        assert!(responses.iter().all(|response| response.status.as_ref().unwrap().code == 0));
        let request = BatchReadBlobsRequest {
            digests: digests.iter().map(|digest| digest.to_proto()).collect(),
            ..Default::default()
        };
        let responses = client.batch_read_blobs(request).await.unwrap().into_inner().responses;
        assert!(responses.iter().zip(&blobs).all(|(response, blob)| response.data == *blob));
    }
    let digest = Digest::of(FUNCTION, &data);
    let requests = vec![one(digest, &data, identity)];
    let request = BatchUpdateBlobsRequest { requests, ..Default::default() };
    assert_eq!(code(client.batch_update_blobs(request).await), Code::InvalidArgument);
    let request = BatchReadBlobsRequest { digests: vec![digest.to_proto()], ..Default::default() };
    assert_eq!(code(client.batch_read_blobs(request).await), Code::InvalidArgument);
    let huge = noise(6 << 20);
    let requests = vec![one(Digest::of(FUNCTION, &huge), &huge, identity)];
    let request = BatchUpdateBlobsRequest { requests, ..Default::default() };
    assert_eq!(code(client.batch_update_blobs(request).await), Code::InvalidArgument);
}

fn directory(memory: &Memory, below: &[Digest], files: usize) -> Digest {
    let file = |index| reapi::FileNode {
        name: format!("file{index}"),
        digest: Some(memory.add(format!("{index}").into_bytes()).to_proto()),
        is_executable: index % 2 == 0,
        node_properties: None,
    };
    let node = |(index, digest): (usize, &Digest)| reapi::DirectoryNode {
        name: format!("directory{index}"),
        digest: Some(digest.to_proto()),
    };
    let directory = reapi::Directory {
        files: (0..files).map(file).collect(),
        directories: below.iter().enumerate().map(node).collect(),
        symlinks: vec![reapi::SymlinkNode {
            name: format!("link{files}"),
            target: "/etc".into(),
            node_properties: Some(reapi::NodeProperties {
                unix_mode: Some(protobuf::UInt32Value { value: 0o644 }),
                ..Default::default()
            }),
        }],
        node_properties: None,
    };
    memory.add(directory.encode_to_vec())
}

async fn tree(
    client: &mut Client,
    root: Digest,
    page_size: i32,
    page_token: &str,
) -> Result<Vec<reapi::GetTreeResponse>, Status> {
    let request = GetTreeRequest {
        root_digest: Some(root.to_proto()),
        page_size,
        page_token: page_token.into(),
        ..Default::default()
    };
    let mut stream = client.get_tree(request).await?.into_inner();
    let mut pages = Vec::new();
    while let Some(page) = stream.message().await? {
        pages.push(page);
    }
    Ok(pages)
}

fn digests(pages: &[reapi::GetTreeResponse]) -> Vec<Digest> {
    let directories = pages.iter().flat_map(|page| &page.directories);
    directories.map(|directory| Digest::of(FUNCTION, &directory.encode_to_vec())).collect()
}

#[tokio::test]
async fn trees_come_in_pages() {
    let server = Server::start().await;
    let mut client = client(&server);
    let memory = server.memory();
    let leaves: Vec<_> = (1..10).map(|files| directory(&memory, &[], files)).collect();
    // A directory whose encoded form is not the one that this server would write.
    let odd = memory.add(&b"\x22\x00"[..]);
    let middle = directory(&memory, &[leaves.as_slice(), &[odd]].concat(), 3);
    let root = directory(&memory, &[middle, leaves[0]], 2);
    let pages = tree(&mut client, root, 0, "").await.unwrap();
    assert_eq!((pages.len(), pages[0].next_page_token.as_str()), (1, ""));
    let all = digests(&pages);
    assert_eq!((all.len(), all[0]), (12, root));
    let pages = tree(&mut client, root, 5, "").await.unwrap();
    assert_eq!(pages.iter().map(|page| page.directories.len()).collect::<Vec<_>>(), [5, 5, 2]);
    assert_eq!(digests(&pages), all);
    assert!(pages[2].next_page_token.is_empty());
    let rest = tree(&mut client, root, 100, &pages[0].next_page_token).await.unwrap();
    assert_eq!(digests(&rest), all[5..]);
    for bad in ["x", "5", "-1", &pages[0].next_page_token.replace('5', "6x")] {
        assert_eq!(code(tree(&mut client, root, 0, bad).await), Code::InvalidArgument, "{bad}");
    }
    let token = &pages[0].next_page_token;
    assert_eq!(code(tree(&mut client, middle, 0, token).await), Code::InvalidArgument);
    assert_eq!(code(tree(&mut client, root, -1, "").await), Code::InvalidArgument);
    // Parts that are missing are left out, also when they were seen before; without its root there is none.
    memory.blobs.lock().unwrap().remove(&leaves[3]);
    assert_eq!(digests(&tree(&mut client, root, 0, "").await.unwrap()).len(), 11);
    memory.blobs.lock().unwrap().remove(&root);
    assert_eq!(code(tree(&mut client, root, 0, "").await), Code::NotFound);
    let file = memory.add(&b"\xff\xff no directory"[..]);
    assert_eq!(code(tree(&mut client, file, 0, "").await), Code::InvalidArgument);
    let empty = tree(&mut client, Digest::empty(FUNCTION), 0, "").await;
    assert!(empty.is_ok_and(|pages| digests(&pages) == [Digest::empty(FUNCTION)]));
}

async fn mapping(
    client: &mut Client,
    blob: Digest,
    digest_function: i32,
) -> Result<Vec<Digest>, Status> {
    let request = GetChunkMappingRequest {
        blob_digest: Some(blob.to_proto()),
        digest_function,
        ..Default::default()
    };
    let mut stream = client.get_chunk_mapping(request).await?.into_inner();
    let mut chunks = Vec::new();
    while let Some(response) = stream.message().await? {
        chunks.extend(response.chunk_digests);
    }
    Ok(chunks.iter().map(|chunk| bbb_reapi::digest(FUNCTION, chunk).unwrap()).collect())
}

#[tokio::test]
async fn large_messages_that_wait_for_memory_do_not_keep_others_from_coming() {
    // Three messages fit into the memory, two into the window of a connection.
    let server = Server::within(Room { requests: 8 << 20, ..Room::default() }, settings()).await;
    let calls = (0..16u8).map(|byte| {
        let client = client(&server);
        let data = vec![byte; 2 << 20];
        let digest = Some(Digest::of(FUNCTION, &data).to_proto());
        let requests = vec![update::Request { digest, data, ..Default::default() }];
        let request = BatchUpdateBlobsRequest { requests, ..Default::default() };
        move || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.batch_update_blobs(request).await.map(drop) }
        }
    });
    all_get_their_turn(calls).await;
}

#[tokio::test]
async fn the_mapping_of_the_empty_blob_tells_its_function() {
    let server = Server::start().await;
    let request = GetChunkMappingRequest {
        blob_digest: Some(Digest::empty(FUNCTION).to_proto()),
        digest_function: SHA256,
        ..Default::default()
    };
    let mut stream = client(&server).get_chunk_mapping(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().expect("there is a first message");
    assert_eq!(first.chunking_function, chunking_function::Value::FastCdc2020 as i32);
    assert_eq!(first.chunk_digests, []);
    assert_eq!(stream.message().await.unwrap(), None);
}

#[tokio::test]
async fn blobs_of_too_many_chunks_are_refused() {
    let server = Server::start().await;
    let mut client = client(&server);
    // Some 59,000 chunks at the least fit into no message. That it is not stored does not matter yet.
    let huge = Digest::of(FUNCTION, b"huge").to_proto();
    let huge = reapi::Digest { size_bytes: 60_000 * (2 << 20), ..huge };
    let request = SplitBlobRequest { blob_digest: Some(huge.clone()), ..Default::default() };
    assert_eq!(code(client.split_blob(request).await), Code::ResourceExhausted);

    let blob = server.memory().add(noise(1000));
    server.memory().blobs.lock().unwrap().remove(&blob);
    let empty = Digest::empty(FUNCTION).to_proto();
    let register = |count| RegisterChunkMappingRequest {
        blob_digest: Some(blob.to_proto()),
        chunk_digests: vec![empty.clone(); count],
        digest_function: SHA256,
        ..Default::default()
    };
    let many: Vec<_> = (0..5).map(|_| register(50_000)).collect();
    let many = stream::iter(many);
    assert_eq!(code(client.register_chunk_mapping(many).await), Code::InvalidArgument);
}

#[tokio::test]
async fn blobs_are_split_and_put_together() {
    let server = Server::start().await;
    let mut client = client(&server);
    let memory = server.memory();
    let data = noise(6_000_000);
    let blob = memory.add(data.clone());
    let chunks = mapping(&mut client, blob, SHA256).await.unwrap();
    assert!(chunks.len() > 4, "{}", chunks.len());
    let whole: Vec<u8> = {
        let blobs = memory.blobs.lock().unwrap();
        chunks.iter().flat_map(|chunk| blobs[chunk].to_vec()).collect()
    };
    assert!(whole == data);
    let request = SplitBlobRequest { blob_digest: Some(blob.to_proto()), ..Default::default() };
    let unary = client.split_blob(request).await.unwrap().into_inner();
    let as_proto: Vec<_> = chunks.iter().map(|chunk| chunk.to_proto()).collect();
    assert_eq!(unary.chunk_digests, as_proto);

    memory.blobs.lock().unwrap().remove(&blob);
    assert_eq!(code(mapping(&mut client, blob, SHA256).await), Code::NotFound);
    assert_eq!(code(mapping(&mut client, blob, 0).await), Code::InvalidArgument);
    let splice = |chunk_digests: Vec<reapi::Digest>| SpliceBlobRequest {
        blob_digest: Some(blob.to_proto()),
        chunk_digests,
        ..Default::default()
    };
    let mut swapped = as_proto.clone();
    swapped.swap(0, 1);
    assert_eq!(code(client.splice_blob(splice(swapped)).await), Code::InvalidArgument);
    let short = as_proto[1..].to_vec();
    assert_eq!(code(client.splice_blob(splice(short)).await), Code::InvalidArgument);
    let absent = memory.blobs.lock().unwrap().remove(&chunks[2]).unwrap();
    assert_eq!(code(client.splice_blob(splice(as_proto.clone())).await), Code::NotFound);
    assert!(!memory.has(blob));
    memory.add(absent);
    let spliced = client.splice_blob(splice(as_proto.clone())).await.unwrap().into_inner();
    assert_eq!(spliced.blob_digest, Some(blob.to_proto()));
    assert!(memory.has(blob));

    memory.blobs.lock().unwrap().remove(&blob);
    let (first, rest) = as_proto.split_at(2);
    let register = |digest_function| {
        let head = RegisterChunkMappingRequest {
            blob_digest: Some(blob.to_proto()),
            chunk_digests: first.to_vec(),
            digest_function,
            ..Default::default()
        };
        let tail =
            RegisterChunkMappingRequest { chunk_digests: rest.to_vec(), ..Default::default() };
        stream::iter([head, RegisterChunkMappingRequest::default(), tail])
    };
    assert_eq!(code(client.register_chunk_mapping(register(0)).await), Code::InvalidArgument);
    client.register_chunk_mapping(register(SHA256)).await.unwrap();
    assert!(memory.blobs.lock().unwrap()[&blob] == data);
    // A blob that is there is left alone.
    client.register_chunk_mapping(register(SHA256)).await.unwrap();
    assert_eq!(code(client.register_chunk_mapping(stream::iter([])).await), Code::InvalidArgument);
}

#[tokio::test]
async fn functions_that_share_their_length_are_named() {
    let server = Server::start().await;
    let mut client = client(&server);
    for function in Function::ALL {
        let digest = Digest::of(function, b"abc");
        let request = BatchUpdateBlobsRequest {
            requests: vec![one(digest, b"abc", compressor::Value::Identity)],
            digest_function: function_code(function) as i32,
            ..Default::default()
        };
        let responses = client.batch_update_blobs(request).await.unwrap().into_inner().responses;
        assert_eq!(responses[0].status.as_ref().unwrap().code, 0, "{function}");
        assert!(server.memory().has(digest));
    }
}

#[tokio::test]
async fn many_empty_parts_are_refused() {
    let server = Server::start().await;
    let mut client = client(&server);
    let requests = vec![update::Request::default(); 150_000];
    let request = BatchUpdateBlobsRequest { requests, ..Default::default() };
    let refused = client.batch_update_blobs(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let digests = vec![reapi::Digest::default(); 150_000];
    let request = BatchReadBlobsRequest { digests, ..Default::default() };
    assert_eq!(code(client.batch_read_blobs(request).await), Code::InvalidArgument);
}
