//! Everybody at once, while far fails, lies and recovers: no wrong byte, nothing that hangs, nothing that
//! is left behind.

use std::{path::Path, sync::atomic::Ordering};

use bbb_digest::Digest;
use bytes::Bytes;
use futures::{TryStreamExt as _, future};

use crate::{Error, Result, Wanted, conformance};

use super::{
    super::*,
    rig::{Rig, until},
};

const LENS: [usize; 8] = [100, 1000, 70_000, 70_000, 1 << 20, 4 << 20, 5 << 20, 7 << 20];

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // splitmix64, https://prng.di.unimi.it/splitmix64.c
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// Does one thing with one blob. An error is as good as an answer, but never that the blob is missing.
async fn one_thing(rig: &Rig, dice: &mut Dice, (digest, bytes): &(Digest, Bytes)) -> Result<()> {
    let len = bytes.len();
    let wanted = match dice.below(5) {
        0 => Wanted::ALL_ZSTD,
        1 => Wanted::part(dice.below(len) as u64, None),
        2 => Wanted::part(dice.below(len) as u64, Some(dice.below(len) as u64)),
        _ => Wanted::ALL,
    };
    match dice.below(8) {
        0 => rig.cas.put(*digest, bytes.clone().into()).await,
        1 => {
            let files = rig.tiered.local_files(&InstanceName::default());
            match files.pin(*digest, dice.below(2) == 0).await {
                Ok(_) | Err(Error::Full { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        }
        2 => {
            let mut stream = rig.cas.get(*digest, wanted).await?.into_stream();
            for _ in 0..dice.below(4) {
                stream.try_next().await?;
            }
            Ok(())
        }
        3 => {
            let get = rig.cas.get(*digest, wanted);
            tokio::pin!(get);
            let _ = futures::poll!(&mut get);
            Ok(())
        }
        _ => {
            let read = conformance::read_all(rig.cas.get(*digest, wanted).await?).await?;
            let range = wanted.within(len as u64);
            let expected = bytes.slice(range.start as usize..range.end as usize);
            // Parts of large blobs are what far says they are, and this one lies.
            match wanted.is_all() || len <= 4 << 20 {
                true => assert!(read == expected, "{wanted:?}"),
                false => assert_eq!(read.len(), expected.len()),
            }
            Ok(())
        }
    }
}

/// What the files below a folder take, in blocks.
fn disk_usage(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.map(|entry| {
        let entry = entry.unwrap();
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
            Ok(metadata) => metadata.len().max(1).div_ceil(4096) * 4096,
            Err(_) => 0,
        }
    });
    sizes.sum()
}

async fn storm(seed: u64) {
    println!("seed {seed}");
    let limit_bytes = 16 << 20;
    let rig = Rig::new(limit_bytes);
    let blobs: Vec<_> = LENS.iter().map(|len| rig.remote.have(*len)).collect();
    let users = (0..24).map(|user| {
        let (rig, blobs) = (&rig, &blobs);
        async move {
            let mut dice = Dice(seed * 1000 + user);
            for _ in 0..30 {
                let blob = &blobs[dice.below(blobs.len())];
                match dice.below(40) {
                    0 => rig.remote.is_out.store(true, Ordering::SeqCst),
                    1 => rig.remote.is_wrong.store(true, Ordering::SeqCst),
                    2 | 3 => rig.remote.has_frames.store(dice.below(2) == 0, Ordering::SeqCst),
                    4..12 => {
                        rig.remote.is_out.store(false, Ordering::SeqCst);
                        rig.remote.is_wrong.store(false, Ordering::SeqCst);
                    }
                    _ => {}
                }
                match one_thing(rig, &mut dice, blob).await {
                    Ok(()) | Err(Error::Unavailable { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
                assert!(rig.near.stats().taken_bytes <= limit_bytes);
            }
        }
    });
    let users = future::join_all(users);
    tokio::time::timeout(Duration::from_secs(300), users).await.expect("nothing hangs");
    rig.remote.is_out.store(false, Ordering::SeqCst);
    rig.remote.is_wrong.store(false, Ordering::SeqCst);
    rig.until_quiet().await;
    until(|| rig.remote.open.load(Ordering::SeqCst) == 0 && rig.temporary_files() == 0).await;
    let cas = rig.dir.path().join("near/cas");
    until(|| rig.near.stats().taken_bytes == disk_usage(&cas)).await;
    for (digest, bytes) in &blobs {
        let blob = rig.cas.get(*digest, Wanted::ALL).await.unwrap();
        assert!(conformance::read_all(blob).await.unwrap() == bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_nothing_wrong_hanging_or_left_behind() {
    for seed in 1..=3 {
        storm(seed).await;
    }
}
