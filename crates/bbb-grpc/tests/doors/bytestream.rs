use std::{sync::atomic::Ordering, time::Duration};

use bbb_digest::Digest;
use bbb_reapi::proto::bytestream::{
    QueryWriteStatusRequest, ReadRequest, WriteRequest, byte_stream_client::ByteStreamClient,
};
use bbb_storage::zstd;
use futures::{StreamExt as _, stream};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, transport::Channel};

use crate::support::{FUNCTION, Room, Server, all_get_their_turn, noise, settings};

type Client = ByteStreamClient<Channel>;

fn client(server: &Server) -> Client {
    ByteStreamClient::new(server.channel.clone()).max_decoding_message_size(4 << 20)
}

async fn read(
    client: &mut Client,
    name: String,
    read_offset: i64,
    read_limit: i64,
) -> Result<Vec<u8>, Status> {
    let request = ReadRequest { resource_name: name, read_offset, read_limit };
    let mut stream = client.read(request).await?.into_inner();
    let mut data = Vec::new();
    while let Some(response) = stream.message().await? {
        data.extend(response.data);
    }
    Ok(data)
}

/// The messages of an upload, each with `len` bytes of data.
fn messages(name: &str, data: &[u8], len: usize) -> Vec<WriteRequest> {
    let chunks: Vec<&[u8]> = if data.is_empty() { vec![&[]] } else { data.chunks(len).collect() };
    let last = chunks.len() - 1;
    let message = |(index, chunk): (usize, &&[u8])| WriteRequest {
        resource_name: if index == 0 { name.to_owned() } else { String::new() },
        write_offset: (index * len) as i64,
        finish_write: index == last,
        data: chunk.to_vec(),
    };
    chunks.iter().enumerate().map(message).collect()
}

async fn write(client: &mut Client, messages: Vec<WriteRequest>) -> Result<i64, Status> {
    Ok(client.write(stream::iter(messages)).await?.into_inner().committed_size)
}

async fn query(client: &mut Client, name: &str) -> Result<(i64, bool), Status> {
    let request = QueryWriteStatusRequest { resource_name: name.to_owned() };
    let response = client.query_write_status(request).await?.into_inner();
    Ok((response.committed_size, response.complete))
}

fn upload(digest: Digest) -> String {
    format!("uploads/00000000-0000-4000-8000-000000000000/blobs/{digest}")
}

fn compressed_upload(digest: Digest) -> String {
    format!("uploads/00000000-0000-4000-8000-000000000000/compressed-blobs/zstd/{digest}")
}

#[tokio::test]
async fn blobs_come_back_as_they_went() {
    let server = Server::start().await;
    let mut client = client(&server);
    for len in [0, 1, 1000, 70_000, 1 << 20, 5_000_000] {
        for message_len in [30_000, 3 << 20] {
            let data = noise(len);
            let digest = Digest::of(FUNCTION, &data);
            server.memory().blobs.lock().unwrap().clear();
            let committed = write(&mut client, messages(&upload(digest), &data, message_len)).await;
            assert_eq!(committed.unwrap(), len as i64);
            let all = read(&mut client, format!("blobs/{digest}"), 0, 0).await.unwrap();
            assert!(all == data, "{len} bytes in messages of {message_len}");
            assert_eq!(query(&mut client, &upload(digest)).await.unwrap(), (len as i64, true));
        }
    }
}

#[tokio::test]
async fn parts_are_read_and_wrong_ones_refused() {
    let server = Server::start().await;
    let mut client = client(&server);
    let data = noise(3_000_000);
    let digest = server.memory().add(data.clone());
    let name = format!("blobs/{digest}");
    for (offset, limit, expected) in [
        (0, 1, &data[..1]),
        (7, 0, &data[7..]),
        (7, 2_000_000, &data[7..2_000_007]),
        (2_999_999, 5, &data[2_999_999..]),
        (3_000_000, 0, &[][..]),
    ] {
        let part = read(&mut client, name.clone(), offset, limit).await.unwrap();
        assert!(part == expected, "{offset} {limit}");
    }
    for (offset, limit, code) in [
        (-1, 0, Code::OutOfRange),
        (3_000_001, 0, Code::OutOfRange),
        (0, -1, Code::InvalidArgument),
    ] {
        let refused = read(&mut client, name.clone(), offset, limit).await.unwrap_err();
        assert_eq!(refused.code(), code, "{offset} {limit}");
    }
}

#[tokio::test]
async fn what_is_no_blob_or_not_here_is_told() {
    let server = Server::start().await;
    let mut client = client(&server);
    let digest = Digest::of(FUNCTION, b"absent");
    let code = |result: Result<Vec<u8>, Status>| result.unwrap_err().code();
    assert_eq!(code(read(&mut client, format!("blobs/{digest}"), 0, 0).await), Code::NotFound);
    for bad in ["", "blobs/xyz/1", "blobs", &upload(digest), "../blobs/x/1"] {
        assert_eq!(
            code(read(&mut client, bad.to_owned(), 0, 0).await),
            Code::InvalidArgument,
            "{bad}"
        );
    }
    assert_eq!(query(&mut client, &upload(digest)).await.unwrap_err().code(), Code::NotFound);
    let wrong = format!("blobs/{digest}");
    assert_eq!(query(&mut client, &wrong).await.unwrap_err().code(), Code::InvalidArgument);
    let empty = Digest::empty(FUNCTION);
    assert_eq!(read(&mut client, format!("blobs/{empty}"), 0, 0).await.unwrap(), b"");
    server.memory().broken.store(true, Ordering::Relaxed);
    assert_eq!(code(read(&mut client, format!("blobs/{digest}"), 0, 0).await), Code::Unavailable);
}

#[tokio::test]
async fn compressed_blobs_go_both_ways() {
    let server = Server::start().await;
    let mut client = client(&server);
    for as_zstd in [false, true] {
        server.memory().as_zstd.store(as_zstd, Ordering::Relaxed);
        for data in [vec![], vec![7; 2_000_000], noise(2_000_000)] {
            let digest = Digest::of(FUNCTION, &data);
            let encoded = zstd::encode_bytes(&data).unwrap();
            for message_len in [1000, 4_000_000] {
                server.memory().blobs.lock().unwrap().clear();
                let sent = messages(&compressed_upload(digest), &encoded, message_len);
                let committed = write(&mut client, sent).await.unwrap();
                assert_eq!(committed, encoded.len() as i64);
            }
            let name = format!("compressed-blobs/zstd/{digest}");
            let read_back = read(&mut client, name.clone(), 0, 0).await.unwrap();
            assert!(zstd::decode_bytes(&read_back, data.len()).unwrap() == data);
            if data.len() > 10 {
                let part = read(&mut client, name.clone(), 10, 0).await.unwrap();
                assert!(zstd::decode_bytes(&part, data.len() - 10).unwrap() == data[10..]);
                let refused = read(&mut client, name, 0, 5).await.unwrap_err();
                assert_eq!(refused.code(), Code::InvalidArgument);
            }
        }
    }
}

#[tokio::test]
async fn wrong_uploads_keep_nothing() {
    let server = Server::start().await;
    let mut client = client(&server);
    let data = noise(100_000);
    let digest = Digest::of(FUNCTION, &data);
    let name = upload(digest);
    let good = || messages(&name, &data, 40_000);
    let changed = |change: fn(&mut Vec<WriteRequest>)| {
        let mut sent = good();
        change(&mut sent);
        sent
    };
    for (what, sent) in [
        ("other bytes", changed(|sent| sent[1].data[7] ^= 1)),
        ("fewer bytes", changed(|sent| sent[2].data.truncate(1000))),
        ("more bytes", changed(|sent| sent[2].data.push(1))),
        ("a wrong offset", changed(|sent| sent[1].write_offset = 39_999)),
        ("a negative offset", changed(|sent| sent[0].write_offset = -1)),
        ("an offset out of nowhere", changed(|sent| drop(sent.remove(0)))),
        ("another name", changed(|sent| sent[1].resource_name = "uploads/x".into())),
        ("no name", changed(|sent| sent[0].resource_name.clear())),
        ("no zstd", messages(&compressed_upload(digest), &data, 40_000)),
        ("no zstd in one message", messages(&compressed_upload(digest), &data, 400_000)),
        ("nothing at all", vec![]),
        ("a read name", messages(&format!("blobs/{digest}"), &data, 40_000)),
    ] {
        let refused = write(&mut client, sent).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
        assert!(!server.memory().has(digest), "{what}");
    }
    assert_eq!(write(&mut client, good()).await.unwrap(), 100_000);
    let names = changed(|sent| sent.iter_mut().for_each(|m| m.resource_name = "".into()));
    assert!(names.iter().all(|message| message.resource_name.is_empty()));
}

#[tokio::test]
async fn too_large_a_blob_is_refused_before_it_comes() {
    let server = Server::start().await;
    let mut client = client(&server);
    let hex = Digest::of(FUNCTION, b"x").hex();
    let name = format!("uploads/u/blobs/{hex}/{}", (1u64 << 30) + 1);
    let refused = write(&mut client, messages(&name, b"x", 10)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("digest.size_bytes"), "{refused}");
}

#[tokio::test]
async fn a_blob_that_is_there_ends_its_upload() {
    let server = Server::start().await;
    let mut client = client(&server);
    let digest = server.memory().add(noise(5000));
    // Only the first message is sent: the answer does not wait for more.
    for (name, expected) in [(upload(digest), 5000), (compressed_upload(digest), -1)] {
        let (sender, receiver) = mpsc::channel(4);
        let first =
            WriteRequest { resource_name: name, data: noise(100), ..WriteRequest::default() };
        sender.send(first).await.unwrap();
        let answer = client.write(ReceiverStream::new(receiver));
        let answer = timeout(Duration::from_secs(10), answer).await.unwrap().unwrap();
        assert_eq!(answer.into_inner().committed_size, expected);
    }
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_off() {
    let server = Server::start().await;
    let mut client = client(&server);
    let data = noise(300_000);
    let digest = Digest::of(FUNCTION, &data);
    let name = upload(digest);
    // A stream that ends without finish_write says how far it came.
    let mut sent = messages(&name, &data, 100_000);
    sent.truncate(1);
    assert_eq!(write(&mut client, sent).await.unwrap(), 100_000);
    assert_eq!(query(&mut client, &name).await.unwrap(), (100_000, false));
    // A connection that breaks in the middle leaves what had come.
    let (sender, receiver) = mpsc::channel::<WriteRequest>(4);
    let second = WriteRequest {
        resource_name: name.clone(),
        write_offset: 100_000,
        data: data[100_000..200_000].to_vec(),
        finish_write: false,
    };
    sender.send(second).await.unwrap();
    let mut asking = client.clone();
    let came = timeout(Duration::from_secs(10), async {
        while query(&mut asking, &name).await.unwrap() != (200_000, false) {
            tokio::task::yield_now().await;
        }
    });
    tokio::select! {
        _ = client.write(ReceiverStream::new(receiver)) => panic!("more was to come"),
        came = came => came.unwrap(),
    }
    drop(sender);
    let wrong = WriteRequest {
        resource_name: name.clone(),
        write_offset: 150_000,
        ..WriteRequest::default()
    };
    let third = WriteRequest {
        resource_name: name.clone(),
        write_offset: 200_000,
        data: data[200_000..].to_vec(),
        finish_write: true,
    };
    // The server may notice a little later that the call before is dead.
    let wait = || async {
        loop {
            match write(&mut client.clone(), vec![wrong.clone()]).await.unwrap_err().code() {
                Code::Aborted => tokio::task::yield_now().await,
                code => return code,
            }
        }
    };
    let code = timeout(Duration::from_secs(10), wait()).await.unwrap();
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(write(&mut client, vec![third]).await.unwrap(), 300_000);
    assert_eq!(query(&mut client, &name).await.unwrap(), (300_000, true));
    assert!(server.memory().has(digest));
}

#[tokio::test]
async fn an_upload_goes_on_although_the_call_before_looks_alive() {
    let server = Server::start().await;
    let mut silent = client(&server);
    let data = noise(200_000);
    let name = upload(Digest::of(FUNCTION, &data));
    let sent = messages(&name, &data, 100_000);
    // What a connection looks like whose other end is gone: nothing comes, and nothing ends it.
    let (sender, receiver) = mpsc::channel::<WriteRequest>(4);
    sender.send(sent[0].clone()).await.unwrap();
    let mut client = client(&server);
    let going_on = async {
        while query(&mut client, &name).await.ok() != Some((100_000, false)) {
            tokio::task::yield_now().await;
        }
        let rest = WriteRequest { resource_name: name.clone(), ..sent[1].clone() };
        loop {
            match write(&mut client, vec![rest.clone()]).await {
                Err(status) if status.code() == Code::Aborted => tokio::task::yield_now().await,
                other => return other,
            }
        }
    };
    let going_on = timeout(Duration::from_secs(10), going_on);
    let (before, after) = tokio::join!(silent.write(ReceiverStream::new(receiver)), going_on);
    assert_eq!(before.unwrap_err().code(), Code::Aborted);
    assert_eq!(after.unwrap().unwrap(), 200_000);
}

#[tokio::test]
async fn an_upload_may_begin_again() {
    let server = Server::start().await;
    let mut client = client(&server);
    let data = noise(50_000);
    let digest = Digest::of(FUNCTION, &data);
    let encoded = zstd::encode_bytes(&data).unwrap();
    for (name, bytes) in [(upload(digest), &data[..]), (compressed_upload(digest), &encoded)] {
        let mut sent = messages(&name, bytes, 10_000);
        sent.truncate(2);
        write(&mut client, sent).await.unwrap();
        let (committed, complete) = query(&mut client, &name).await.unwrap();
        assert_eq!(committed, if name.contains("zstd") { 0 } else { 20_000 });
        assert!(!complete);
    }
    let sent = messages(&upload(digest), &data, 10_000);
    assert_eq!(write(&mut client, sent).await.unwrap(), 50_000);
}

#[tokio::test]
async fn a_message_after_the_last_is_an_error() {
    let server = Server::start().await;
    let mut client = client(&server);
    let data = noise(1000);
    let digest = Digest::of(FUNCTION, &data);
    let mut sent = messages(&upload(digest), &data, 1000);
    sent.push(sent[0].clone());
    // The answer may be there before the message that makes it wrong has come.
    match write(&mut client, sent).await {
        Ok(committed) => assert_eq!(committed, 1000),
        Err(refused) => assert_eq!(refused.code(), Code::InvalidArgument),
    }
}

#[tokio::test]
async fn every_function_and_instance_has_its_own_blobs() {
    let server = Server::start().await;
    let mut client = client(&server);
    for function in bbb_digest::Function::ALL {
        let digest = Digest::of(function, b"hello");
        let name = format!("some/team/uploads/u/blobs/{digest}/and/metadata");
        assert_eq!(write(&mut client, messages(&name, b"hello", 5)).await.unwrap(), 5);
        let there = read(&mut client, format!("some/team/blobs/{digest}"), 0, 0).await;
        assert_eq!(there.unwrap(), b"hello");
        let elsewhere = read(&mut client, format!("some/blobs/{digest}"), 0, 0).await;
        assert_eq!(elsewhere.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_deadline_ends_a_call() {
    let server = Server::start().await;
    let mut client = client(&server);
    let digest = Digest::of(FUNCTION, &noise(10));
    let (_sender, receiver) = mpsc::channel::<WriteRequest>(4);
    let first = WriteRequest { resource_name: upload(digest), ..WriteRequest::default() };
    let messages = stream::iter([first]).chain(ReceiverStream::new(receiver));
    let mut request = Request::new(messages);
    request.set_timeout(Duration::from_millis(50));
    let late = client.write(request).await.unwrap_err();
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late}");
}

#[tokio::test]
async fn uploads_that_wait_for_memory_do_not_keep_others_from_coming() {
    // Two uploads fit into the memory, and a little more than one into the window of their connection.
    let server = Server::within(Room { uploads: 2 << 20, ..Room::default() }, settings()).await;
    let calls = (0..8u8).map(|number| {
        let client = client(&server);
        let data = vec![number; 3 << 20];
        let sent = messages(&upload(Digest::of(FUNCTION, &data)), &data, 64 << 10);
        move || {
            let (mut client, sent) = (client.clone(), sent.clone());
            async move { write(&mut client, sent).await.map(drop) }
        }
    });
    all_get_their_turn(calls).await;
}

#[tokio::test]
async fn uploads_that_broke_off_make_room_for_others() {
    let server = Server::within(Room { uploads: 4 << 20, ..Room::default() }, settings()).await;
    let mut client = client(&server);
    let begun = |number: u8| {
        let data = vec![number; 2 << 20];
        let name = upload(Digest::of(FUNCTION, &data));
        let message = WriteRequest {
            resource_name: name.clone(),
            data: data[..1000].to_vec(),
            ..Default::default()
        };
        (name, message)
    };
    // Each holds 1 MiB, and all of them 4.
    for number in 0..10 {
        assert_eq!(write(&mut client, vec![begun(number).1]).await.unwrap(), 1000);
    }
    assert_eq!(query(&mut client, &begun(0).0).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(query(&mut client, &begun(9).0).await.unwrap(), (1000, false));
}
