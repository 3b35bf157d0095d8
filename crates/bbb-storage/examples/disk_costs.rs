//! What the disk tier costs at its seams: wall time and CPU time per operation.
//!
//! `cargo run --release -p bbb-storage --example disk_costs [folder] [entries]` works in a new folder below
//! `folder`. With `entries` it measures instead how a store of so many blobs is opened.

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_storage::{ActionResult, Cas, CasExt as _, Disk, DiskSettings, Result, Wanted};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

/// How many operations are under way at once.
const CONCURRENCY: usize = 64;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let below = args.next().map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::TempDir::new_in(below)?;
    match args.next() {
        Some(entries) => opening(dir.path(), entries.parse()?).await,
        None => operations(dir.path()).await,
    }
}

async fn operations(dir: &Path) -> anyhow::Result<()> {
    let group = TaskGroup::new("costs");
    let disk = Disk::open(DiskSettings::new(dir.join("store"), 20 << 30), &group)?;
    let no_memory =
        DiskSettings { memory_bytes: 0, ..DiskSettings::new(dir.join("bare"), 20 << 30) };
    let bare = Disk::open(no_memory, &group)?;
    let instance = InstanceName::default();
    let cas = disk.cas(&instance);
    for (name, len, count) in
        [("1 KiB", 1 << 10, 20_000), ("64 KiB", 64 << 10, 2_000), ("1 MiB", 1 << 20, 500)]
    {
        let blobs = blobs(len, count);
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let (puts, cas) = (blobs.clone(), &cas);
        measure(&format!("put {name}"), puts, |(digest, bytes)| cas.put(digest, bytes.into()))
            .await?;
        for round in ["first", "again"] {
            let what = format!("get {name}, {round}");
            measure(&what, digests.clone(), |digest| read(cas, digest)).await?;
        }
        let cas = &bare.cas(&instance);
        stream::iter(blobs)
            .map(|(digest, bytes)| cas.put(digest, bytes.into()))
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        let what = format!("get {name}, without memory");
        measure(&what, digests, |digest| read(cas, digest)).await?;
    }
    let there: Vec<Digest> = blobs(1 << 10, 10_000).into_iter().map(|(digest, _)| digest).collect();
    let absent: Vec<Digest> =
        (0..10_000u32).map(|i| Digest::of(Function::Sha256, &i.to_be_bytes())).collect();
    for (name, digests) in [("present", &there), ("absent", &absent)] {
        let what = format!("find_missing of 10,000 {name}");
        measure(&what, vec![(); 200], |()| async { cas.find_missing(digests).await.map(drop) })
            .await?;
    }
    let results = &disk.action_cache(&instance);
    let result = |digest: &Digest| {
        let stdout_raw = digest.hash().repeat(10);
        (*digest, ActionResult { stdout_raw, ..ActionResult::default() })
    };
    let puts = there.iter().map(result).collect();
    measure("put of a result", puts, |(action, result)| results.put(action, result)).await?;
    let get = |action| async move { results.get(action).await.map(drop) };
    measure("get of a result", there.clone(), get).await?;
    let results = &bare.action_cache(&instance);
    for (action, result) in there.iter().map(result) {
        results.put(action, result).await?;
    }
    let get = |action| async move { results.get(action).await.map(drop) };
    measure("get of a result, without memory", there, get).await?;
    group.shut_down(Duration::from_secs(60)).await;
    Ok(())
}

async fn read(cas: &Arc<dyn Cas>, digest: Digest) -> Result<()> {
    let bytes = match digest.size_bytes() {
        0..=65_536 => cas.get_bytes(digest, u64::MAX).await?.len(),
        _ => {
            let stream = cas.get(digest, Wanted::ALL).await?.into_stream();
            stream.try_fold(0, |sum, piece| async move { Ok(sum + piece.len()) }).await?
        }
    };
    assert_eq!(bytes as u64, digest.size_bytes());
    Ok(())
}

/// How a store of many blobs is opened: after a clean stop, and with nothing but its files.
async fn opening(dir: &Path, entries: usize) -> anyhow::Result<()> {
    let settings = DiskSettings { scrub_bytes_per_second: 0, ..DiskSettings::new(dir, 1 << 40) };
    let group = TaskGroup::new("fill");
    let disk = Disk::open(settings.clone(), &group)?;
    let cas = disk.cas(&InstanceName::default());
    let blob = |number: usize| {
        let bytes = Bytes::copy_from_slice(&number.to_le_bytes());
        (Digest::of(Function::Sha256, &bytes), bytes)
    };
    let before = resident_bytes()?;
    let puts = (0..entries).map(|number| {
        let (digest, bytes) = blob(number);
        cas.put(digest, bytes.into())
    });
    stream::iter(puts).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
    println!("{entries} blobs stored; {} MB more memory", (resident_bytes()? - before) >> 20);
    group.shut_down(Duration::from_secs(60)).await;
    disk.close().await?;
    drop((cas, disk));
    for snapshot in [true, false] {
        if !snapshot {
            std::fs::remove_file(dir.join("snapshot"))?;
        }
        let group = TaskGroup::new("open");
        let started = Instant::now();
        let disk = Disk::open(settings.clone(), &group)?;
        let opened = started.elapsed();
        let cas = disk.cas(&InstanceName::default());
        let asked: Vec<Digest> = (0..1000).map(|i| blob(i * (entries / 1000)).0).collect();
        anyhow::ensure!(cas.find_missing(&asked).await?.is_empty(), "blobs are missing");
        let answered = started.elapsed();
        while !group.stop().is_requested() && disk.stats().blobs < entries as u64
            || !disk.stats().is_complete
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!(
            "snapshot {snapshot}: opened after {opened:?}, 1,000 found after {answered:?}, all known after {:?}",
            started.elapsed()
        );
        group.shut_down(Duration::from_secs(60)).await;
        disk.close().await?;
    }
    Ok(())
}

fn blobs(len: usize, count: usize) -> Vec<(Digest, Bytes)> {
    let blob = |number: usize| {
        let mut bytes = vec![7; len];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        (Digest::of(Function::Sha256, &bytes), Bytes::from(bytes))
    };
    (0..count).map(blob).collect()
}

async fn measure<T, F: Future<Output = Result<()>>>(
    what: &str,
    inputs: Vec<T>,
    operation: impl Fn(T) -> F,
) -> anyhow::Result<()> {
    let count = inputs.len() as f64;
    let (cpu, wall) = (cpu_seconds()?, Instant::now());
    stream::iter(inputs).map(operation).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
    let (cpu, wall) = (cpu_seconds()? - cpu, wall.elapsed().as_secs_f64());
    println!("{what:40} {:9.2} us wall {:9.2} us CPU", wall / count * 1e6, cpu / count * 1e6);
    Ok(())
}

/// The CPU time of this process, from the scheduler's own counts of its threads.
fn cpu_seconds() -> anyhow::Result<f64> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let counts = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let running = counts.split_whitespace().next();
        nanoseconds += running.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(nanoseconds as f64 / 1e9)
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
