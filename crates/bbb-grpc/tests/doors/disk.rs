//! The doors over the embedded store: what crosses both, above all uploads that stop and go on.

use std::{sync::Arc, time::Duration};

use bbb_digest::Digest;
use bbb_grpc::{Budgets, Doors, Port};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::proto::bytestream::{
    ReadRequest, WriteRequest, byte_stream_client::ByteStreamClient,
};
use bbb_storage::{Complete, Disk, DiskSettings, Instances, Stores, TreeCache, Trees, zstd};
use futures::stream;
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::support::{FUNCTION, noise, settings};

type Client = ByteStreamClient<tonic::transport::Channel>;

async fn start(dir: &std::path::Path, tasks: &TaskGroup) -> Client {
    let disk = Disk::open(DiskSettings::new(dir, 1 << 30), tasks).unwrap();
    let trees = Arc::new(TreeCache::new(1 << 20));
    let instances = Arc::new(Instances::new(move |name| {
        let cas = disk.cas(name);
        let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&trees)));
        let results = disk.action_cache(name);
        let complete = Complete::new(results, Arc::clone(&cas), Arc::clone(&trees));
        Stores { cas, action_cache: Arc::new(complete), trees }
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let doors = Doors::new(settings(), &Budgets::new(64 << 20, 32 << 20), instances);
    Port::new(32 << 20, doors).serve(listener, tasks);
    Client::connect(format!("http://{address}")).await.unwrap()
}

async fn write(
    client: &mut Client,
    name: &str,
    data: &[u8],
    part: std::ops::Range<usize>,
) -> Result<i64, Status> {
    let last = part.end == data.len();
    let end = part.end;
    let messages: Vec<_> = part
        .clone()
        .step_by(100_000)
        .map(|at| WriteRequest {
            resource_name: name.to_owned(),
            write_offset: at as i64,
            finish_write: last && at + 100_000 >= end,
            data: data[at..end.min(at + 100_000)].to_vec(),
        })
        .collect();
    Ok(client.write(stream::iter(messages)).await?.into_inner().committed_size)
}

async fn read(client: &mut Client, resource_name: String) -> Result<Vec<u8>, Status> {
    let request = ReadRequest { resource_name, ..Default::default() };
    let mut stream = client.read(request).await?.into_inner();
    let mut data = Vec::new();
    while let Some(response) = stream.message().await? {
        data.extend(response.data);
    }
    Ok(data)
}

#[tokio::test]
async fn uploads_stop_and_go_on_over_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = TaskGroup::new("test");
    let mut client = start(dir.path(), &tasks).await;
    for len in [150_000, 3_000_000] {
        let data = noise(len);
        let digest = Digest::of(FUNCTION, &data);
        let name = format!("uploads/u/blobs/{digest}");
        assert_eq!(write(&mut client, &name, &data, 0..100_000).await.unwrap(), 100_000);
        let mut wrong = data.clone();
        wrong[len - 1] ^= 1;
        let other = format!("uploads/other/blobs/{digest}");
        let refused = write(&mut client, &other, &wrong, 0..len).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let absent = read(&mut client, format!("blobs/{digest}")).await.unwrap_err();
        assert_eq!(absent.code(), Code::NotFound);
        assert_eq!(write(&mut client, &name, &data, 100_000..len).await.unwrap(), len as i64);
        assert!(read(&mut client, format!("blobs/{digest}")).await.unwrap() == data);
        let packed = read(&mut client, format!("compressed-blobs/zstd/{digest}")).await.unwrap();
        assert!(zstd::decode_bytes(&packed, len).unwrap() == data);
    }
    drop(client);
    assert_eq!(tasks.shut_down(Duration::from_secs(20)).await, 0);
}
