use std::{sync::Arc, time::Duration};

use bbb_lifecycle::TaskGroup;
use bbb_reapi::Channel;
use futures::StreamExt as _;
use object_store::memory::InMemory;

use super::*;
use crate::{Bucket, BucketSettings, Disk, DiskSettings, Objects};

fn log(number: u128) -> LogId {
    LogId { host: LogHost(7), number, channel: Channel::Stdout }
}

fn entry(host: u64, at_ms: u64, number: u128) -> EntryName {
    let mut filter = Filter::default();
    filter.add(log(number));
    EntryName { host: LogHost(host), at_ms, life: 0xabcd, filter }
}

/// What every store of journals does.
async fn conforms(store: Arc<dyn JournalStore>) {
    let host = LogHost(7);
    assert_eq!(store.list(host, 0).await.unwrap(), []);
    assert_eq!(store.read(&entry(7, 1, 1)).await.unwrap(), None);
    store.remove(&[entry(7, 1, 1)]).await.unwrap();
    // Not in their order.
    let entries = [entry(7, 2000, 2), entry(7, 1000, 1), entry(7, 3000, 3)];
    for (at, name) in entries.iter().enumerate() {
        store.write(name, vec![at as u8; 100 << at].into()).await.unwrap();
    }
    store.write(&entry(8, 1500, 1), Bytes::from_static(b"another node's")).await.unwrap();
    let listed = store.list(host, 0).await.unwrap();
    assert_eq!(listed, [entries[1], entries[0], entries[2]]);
    assert_eq!(store.list(host, 2000).await.unwrap(), [entries[0], entries[2]]);
    for (at, name) in entries.iter().enumerate() {
        assert_eq!(store.read(name).await.unwrap().unwrap(), vec![at as u8; 100 << at]);
    }
    store.remove(&entries[..2]).await.unwrap();
    assert_eq!(store.list(host, 0).await.unwrap(), [entries[2]]);
    assert_eq!(store.read(&entries[0]).await.unwrap(), None);
    assert_eq!(store.list(LogHost(8), 0).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_bucket_conforms() {
    let objects = Objects::with_parts(Arc::new(InMemory::new()));
    let settings = BucketSettings::new("s3://builds/prefix".parse().unwrap());
    let bucket = Bucket::over(objects, settings, true, &TaskGroup::new("test"));
    conforms(bucket.log_journals()).await;
}

#[tokio::test]
async fn a_bucket_that_is_a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let location = format!("file://{}", folder.path().display());
    let tasks = TaskGroup::new("test");
    let settings = BucketSettings::new(location.parse().unwrap());
    conforms(Bucket::open(settings, &tasks).await.unwrap().log_journals()).await;
}

#[tokio::test]
async fn a_folder_conforms_and_counts_with_the_store() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), TaskGroup::new("test"));
    let disk = DiskSettings::new(folder.path().join("store"), 1 << 20);
    let disk = Disk::open(disk, &tasks).unwrap();
    let start = |tasks: &TaskGroup| {
        let journals = folder.path().join("journal");
        JournalFolder::start(journals, disk.lodging(), tasks).unwrap()
    };
    let journals = start(&tasks);
    conforms(Arc::clone(&journals) as _).await;
    assert_eq!(disk.stats().lodgers, 2);
    // The oldest makes room for new ones.
    for at_ms in 0..20 {
        journals.write(&entry(7, 5000 + at_ms, 1), vec![0; 100 << 10].into()).await.unwrap();
    }
    assert!(disk.stats().taken_bytes <= 1 << 20);
    let left = journals.list(LogHost(7), 0).await.unwrap();
    assert!((5..=10).contains(&left.len()) && left.last().unwrap().at_ms == 5019, "{left:?}");
    drop(journals);
    assert_eq!(disk.stats().lodgers, 0);

    let tasks = TaskGroup::new("next life");
    let journals = start(&tasks);
    // All that lies there is counted, or had to leave.
    let counted = async {
        while disk.stats().lodgers == 0
            || disk.stats().lodgers != journals.list(LogHost(7), 0).await.unwrap().len() as u64
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), counted).await.unwrap();
    let again = journals.list(LogHost(7), 0).await.unwrap();
    assert!(left.ends_with(&again), "{again:?}");
}

#[test]
fn names_are_read_in_one_form_alone() {
    let name = entry(7, 0x0123_4567_89ab, 0x1234);
    let file = name.file();
    assert_eq!(EntryName::parse(name.host, &file), Some(name));
    assert_eq!(name.to_string(), format!("{:016x}/{file}", 7));
    for bad in
        ["", "-", &file[1..], &file[..file.len() - 1], &format!("{file}0"), &file.to_uppercase()]
    {
        assert_eq!(EntryName::parse(name.host, bad), None, "{bad}");
    }
    assert!(EntryName::since(0x0123_4567_89ab).as_str() < file.as_str());
}

#[test]
fn a_filter_has_what_was_added_and_little_else() {
    let number = |n: u128| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 32;
    let mut filter = Filter::default();
    (0..16).for_each(|n| filter.add(log(number(n))));
    assert!((0..16).all(|n| filter.may_have(log(number(n)))));
    let wrong = (16..10_016).filter(|n| filter.may_have(log(number(*n)))).count();
    assert!(wrong < 300, "{wrong} of 10,000");
}

#[test]
fn entries_are_read_as_they_are_written_and_not_when_damaged() {
    use entry::{Part, decode, encode};
    let part = |instance: &str, offset, bytes: &'static [u8]| {
        let log = bbb_reapi::LogResource { instance: instance.parse().unwrap(), id: log(9) };
        Part { log, offset, bytes: Bytes::from_static(bytes) }
    };
    let parts = [part("", 0, b"one"), part("a/b", 1 << 40, b"two")];
    let name = entry(7, 1, 9);
    let bytes = encode(&name, &parts).unwrap();
    assert_eq!(decode(&name, &bytes).unwrap(), parts);
    assert!(decode(&entry(7, 2, 9), &bytes).is_err(), "another one's name");
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        assert!(decode(&name, &damaged).is_err(), "{at}");
        assert!(decode(&name, &bytes[..at]).is_err(), "{at}");
    }
}

#[tokio::test]
async fn who_reads_slowly_holds_nobody_up() {
    const READERS: usize = 20;
    let (folder, tasks) = (tempfile::tempdir().unwrap(), TaskGroup::new("test"));
    let disk = DiskSettings::new(folder.path().join("store"), 1 << 20);
    let disk = Disk::open(disk, &tasks).unwrap();
    let journals =
        JournalFolder::start(folder.path().join("journal"), disk.lodging(), &tasks).unwrap();
    let log = bbb_reapi::LogResource { instance: "".parse().unwrap(), id: log(9) };
    for at in 0..3 {
        let name = entry(7, 1000 + at, 9);
        let bytes = Bytes::from_static(b"abc");
        let part = entry::Part { log: log.clone(), offset: 3 * at, bytes };
        journals.write(&name, entry::encode(&name, &[part]).unwrap()).await.unwrap();
    }
    let journal = Journal::new(LogHost(7), journals);
    let reading = async {
        let mut slow = Vec::new();
        for _ in 0..READERS {
            let mut reader = journal.read(&log, 0).await.unwrap();
            assert_eq!(reader.next().await.unwrap().unwrap(), "abc");
            slow.push(reader);
        }
        for mut reader in slow {
            assert_eq!(reader.next().await.unwrap().unwrap(), "abc");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("each has its turn");
}
