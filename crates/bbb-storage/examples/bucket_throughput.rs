//! What the bucket tier makes of a server, beside what the bare library makes of it in the same run.
//!
//! `cargo run --release -p bbb-storage --example bucket_throughput BUCKET [ENDPOINT [REGION [LARGEST]]]` takes
//! `--bucket`'s forms, and keys from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. It writes and reads blobs of
//! 1 KiB to LARGEST bytes (1 GiB), which do not compress and which do, and prints MB/s, objects per second and
//! seconds of CPU of this process (not of the server) per GB.

use std::{env, fs, future::Future, sync::Arc, time::Instant};

use anyhow::{Context as _, bail};
use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_storage::{Bucket, BucketLocation, BucketSettings, Cas, Wanted};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{
    ObjectStore, ObjectStoreExt as _, WriteMultipart, aws::AmazonS3Builder, local::LocalFileSystem,
    path::Path,
};

/// How many blobs are on their way at once.
const CONCURRENCY: usize = 10;

/// How much is written for each size, about.
const ROUND_BYTES: usize = 256 << 20;

/// The parts in which the bare library writes what is large.
const PART_BYTES: usize = 8 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = env::args().skip(1);
    let location: BucketLocation = args.next().context("which bucket?")?.parse()?;
    let (endpoint, region, largest) = (args.next(), args.next(), args.next());
    let mut settings = BucketSettings::new(location);
    if matches!(settings.location, BucketLocation::S3 { .. }) {
        env::var("AWS_ACCESS_KEY_ID").context("AWS_ACCESS_KEY_ID is not set")?;
    }
    settings.endpoint = endpoint.filter(|endpoint| !endpoint.is_empty());
    settings.region = region.unwrap_or(settings.region);
    let largest = largest.map_or(Ok(1 << 30), |largest| largest.parse())?;
    let bare = bare(&settings)?;
    let bucket = Bucket::open(settings, &TaskGroup::new("throughput")).await?;
    let cas = bucket.cas(&InstanceName::default());
    // A tier that has not seen what the other wrote.
    println!("{:32} {:>10} {:>10} {:>12}", "", "MB/s", "objects/s", "CPU s per GB");
    for len in [1 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 256 << 20, 1 << 30] {
        if len > largest {
            break;
        }
        let count = (ROUND_BYTES / len).clamp(1, 2000);
        one_size(&bare, &cas, len, count).await?;
    }
    println!("{:?}", bucket.stats());
    Ok(())
}

async fn one_size(
    bare: &Arc<dyn ObjectStore>,
    cas: &Arc<dyn Cas>,
    len: usize,
    count: usize,
) -> anyhow::Result<()> {
    for (kind, make) in [("noise", noise as fn(usize, usize) -> Bytes), ("text", text)] {
        let blobs: Vec<Bytes> = (0..count).map(|at| make(len, at)).collect();
        let keys: Vec<Path> = (0..count).map(|at| Path::from(format!("bare/{len}/{at}"))).collect();
        let name = |what| format!("{what} {} KiB {kind}", len >> 10);
        if kind == "noise" {
            let puts =
                keys.iter().zip(&blobs).map(|(key, bytes)| bare_put(bare, key, bytes.clone()));
            measure(&name("bare put"), len, count, puts).await?;
            let gets = keys.iter().map(|key| async move {
                let stream = bare.get(key).await?.into_stream();
                drain(stream.map_ok(|piece| piece.len()).err_into().boxed(), len).await
            });
            measure(&name("bare get"), len, count, gets).await?;
        }
        let digests: Vec<Digest> =
            blobs.iter().map(|bytes| Digest::of(Function::Sha256, bytes)).collect();
        let puts = digests.iter().zip(&blobs).map(|(digest, bytes)| async move {
            Ok(cas.put(*digest, bytes.clone().into()).await?)
        });
        measure(&name("tier put"), len, count, puts).await?;
        let gets = digests.iter().map(|digest| async move {
            let stream = cas.get(*digest, Wanted::ALL).await?.into_stream();
            drain(stream.map_ok(|piece| piece.len()).err_into().boxed(), len).await
        });
        measure(&name("tier get"), len, count, gets).await?;
    }
    Ok(())
}

/// What speaks to the same bucket without our tier.
fn bare(settings: &BucketSettings) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(match &settings.location {
        BucketLocation::Folder(folder) => {
            fs::create_dir_all(folder)?;
            Arc::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true))
        }
        BucketLocation::S3 { bucket, .. } => {
            let mut builder = AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                .with_region(&settings.region)
                .with_allow_http(true);
            if let Some(endpoint) = &settings.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            Arc::new(builder.build()?)
        }
    })
}

async fn bare_put(store: &Arc<dyn ObjectStore>, key: &Path, bytes: Bytes) -> anyhow::Result<()> {
    if bytes.len() <= PART_BYTES {
        store.put(key, bytes.into()).await?;
        return Ok(());
    }
    let upload = store.put_multipart(key).await?;
    let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
    for at in (0..bytes.len()).step_by(PART_BYTES) {
        writer.wait_for_capacity(3).await?;
        writer.put(bytes.slice(at..bytes.len().min(at + PART_BYTES)));
    }
    writer.finish().await?;
    Ok(())
}

async fn drain(
    mut pieces: stream::BoxStream<'_, anyhow::Result<usize>>,
    len: usize,
) -> anyhow::Result<()> {
    let mut came = 0;
    while let Some(piece) = pieces.try_next().await? {
        came += piece;
    }
    match came == len {
        true => Ok(()),
        false => bail!("{came} bytes came of {len}"),
    }
}

async fn measure<F: Future<Output = anyhow::Result<()>>>(
    name: &str,
    len: usize,
    count: usize,
    work: impl Iterator<Item = F>,
) -> anyhow::Result<()> {
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    stream::iter(work).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let megabytes = (len * count) as f64 / 1e6;
    println!(
        "{name:32} {:10.1} {:10.1} {:12.2}",
        megabytes / wall,
        count as f64 / wall,
        cpu / megabytes * 1e3
    );
    Ok(())
}

/// The seconds of CPU that this process has used.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat is odd")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    // Linux says 100 ticks a second to everybody.
    Ok(ticks.collect::<Result<Vec<_>, _>>()?.iter().sum::<f64>() / 100.0)
}

fn noise(len: usize, at: usize) -> Bytes {
    let mut bytes = vec![0; len];
    let seed = format!("{} {len} {at}", std::process::id());
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Gets a third of its size.
fn text(len: usize, at: usize) -> Bytes {
    let noise = noise(len.div_ceil(3), at);
    noise.iter().flat_map(|byte| [*byte, b' ', b' ']).take(len).collect()
}
