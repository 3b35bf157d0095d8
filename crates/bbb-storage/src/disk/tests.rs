//! Tests of the disk tier as a whole.

mod crash;
mod eviction;
mod full;
mod links;
mod lodgers;
mod results;
mod trees;

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use bbb_digest::Function;
use tempfile::TempDir;

use super::*;
use crate::{CasExt as _, Content, Wanted, conformance};

/// A store that can be closed and opened again in its folder.
struct Store {
    disk: Arc<Disk>,
    group: TaskGroup,
}

impl Store {
    fn open(dir: &Path, limit_bytes: u64) -> Self {
        let settings = DiskSettings::new(dir, limit_bytes);
        Self::open_with(DiskSettings { scrub_bytes_per_second: 0, ..settings })
    }

    fn open_with(settings: DiskSettings) -> Self {
        let group = TaskGroup::new("disk");
        Self { disk: Disk::open(settings, &group).unwrap(), group }
    }

    /// One in which nothing goes before somebody needs its room, however little is free: to be filled to its limit.
    fn open_to_be_filled(dir: &Path, limit_bytes: u64) -> Self {
        let group = TaskGroup::new("disk");
        let settings = DiskSettings::new(dir, limit_bytes);
        let settings = DiskSettings { scrub_bytes_per_second: 0, ..settings };
        let (disk, last) = Disk::open_still(settings).unwrap();
        group.spawn("look around", Arc::clone(&disk).look_around(last, group.stop()));
        Self { disk, group }
    }

    fn cas(&self) -> Arc<dyn Cas> {
        self.disk.cas(&InstanceName::default())
    }

    fn results(&self) -> Arc<dyn ActionCache> {
        self.disk.action_cache(&InstanceName::default())
    }

    async fn put(&self, len: usize) -> Digest {
        let bytes = conformance::data(len);
        let digest = Digest::of(Function::Sha256, &bytes);
        self.cas().put(digest, bytes.into()).await.unwrap();
        digest
    }

    async fn is_there(&self, digest: Digest) -> bool {
        self.cas().find_missing(&[digest]).await.unwrap().is_empty()
    }

    async fn reads(&self, digest: Digest) -> bool {
        match self.cas().get_bytes(digest, u64::MAX).await {
            Ok(bytes) => {
                assert_eq!(
                    Digest::of(digest.function(), &bytes),
                    digest,
                    "wrong bytes were served"
                );
                true
            }
            Err(Error::Missing(missing)) => {
                assert_eq!(missing, digest);
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn path(&self, kind: Kind, digest: Digest) -> PathBuf {
        self.disk.layout.entry("%", kind, digest)
    }

    async fn until_complete(&self) {
        until(|| self.disk.is_complete()).await;
    }

    /// Ends as a process does that is killed.
    async fn kill(self) {
        assert_eq!(self.group.shut_down(Duration::from_secs(60)).await, 0);
    }

    async fn close(self) {
        assert_eq!(self.group.shut_down(Duration::from_secs(60)).await, 0);
        self.disk.close().await.unwrap();
    }
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let limit = Duration::from_secs(60);
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(limit, waiting).await.expect("what is waited for comes");
}

/// Makes it look as if the machine had been down since.
fn pretend_another_boot(dir: &Path) {
    let path = dir.join("STATE");
    let state = fs::read_to_string(&path).unwrap();
    let boot = state.lines().find(|line| line.starts_with("boot ")).unwrap();
    fs::write(&path, state.replace(boot, "boot another")).unwrap();
}

/// Changes a file's bytes but neither its size nor its times.
fn change_unseen(path: &Path) {
    let before = fs::metadata(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(before.modified().unwrap())
        .unwrap();
    fs::set_permissions(path, before.permissions()).unwrap();
}

fn temporary_files(store: &Store) -> usize {
    let folders = fs::read_dir(store.disk.layout.tmp()).unwrap();
    folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

const LENS: [usize; 3] = [100, 64 << 10, 2 << 20];

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    conformance::cas(store.cas()).await;
    conformance::action_cache(store.results()).await;
    let names = ["", "a", "a/b", "a%2Fb"].map(|name| name.parse::<InstanceName>().unwrap());
    let sides = names.map(|name| (store.disk.cas(&name), store.disk.action_cache(&name)));
    for (at, one) in sides.iter().enumerate() {
        for other in sides.iter().skip(at + 1) {
            conformance::walls(one.clone(), other.clone()).await;
        }
    }
    assert_eq!(temporary_files(&store), 0);
    store.close().await;
}

#[tokio::test]
async fn an_instance_costs_nothing_before_it_is_written_to() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    store.until_complete().await;
    let digest = Digest::of(Function::Sha256, b"x");
    for number in 0..100 {
        let name = format!("made/up/{number}").parse().unwrap();
        assert_eq!(store.disk.cas(&name).find_missing(&[digest]).await.unwrap(), [digest]);
        assert!(store.disk.action_cache(&name).get(digest).await.unwrap().is_none());
        assert!(store.disk.cas(&name).get(digest, Wanted::ALL).await.is_err());
    }
    assert!(store.disk.segments.all().is_empty());
    assert!(!dir.path().join("cas").exists() && !dir.path().join("ac").exists());
}

#[tokio::test]
async fn a_folder_is_one_nodes_alone() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let second = Disk::open(DiskSettings::new(dir.path(), 1), &TaskGroup::new("second"));
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
    store.close().await;
    Store::open(dir.path(), 1 << 30);
}

#[tokio::test]
async fn a_folder_of_another_version_or_program_is_refused() {
    let dir = TempDir::new().unwrap();
    Store::open(dir.path(), 1 << 30).close().await;
    fs::write(dir.path().join("VERSION"), "buildbuildbuild store 2\n").unwrap();
    let open = |dir: &Path| {
        let opened = Disk::open(DiskSettings::new(dir, 1), &TaskGroup::new("other"));
        opened.expect_err("the folder is not ours").to_string()
    };
    let story = open(dir.path());
    assert!(story.contains("store 2") && story.contains(dir.path().to_str().unwrap()), "{story}");

    let home = TempDir::new().unwrap();
    fs::write(home.path().join("diary"), "dear").unwrap();
    let story = open(home.path());
    assert!(story.contains("diary"), "{story}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "something was left there");
}

#[tokio::test]
async fn a_first_start_that_broke_off_is_no_other_program() {
    let dir = TempDir::new().unwrap();
    for name in ["LOCK", "VERSION.new"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    Store::open(dir.path(), 1 << 30).close().await;
    assert!(dir.path().join("VERSION").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn scratch_is_empty_at_start_whatever_was_left_there() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let left = store.disk.scratch().join("exec/root");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("output"), "x").unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o555)).unwrap();
    store.kill().await;
    let store = Store::open(dir.path(), 1 << 30);
    assert_eq!(fs::read_dir(store.disk.scratch()).unwrap().count(), 0);
    until(|| fs::read_dir(store.disk.layout.trash()).unwrap().count() == 0).await;
}

#[test]
fn what_stays_in_the_trash_stays_alone() {
    let dir = TempDir::new().unwrap();
    let layout = Layout::new(dir.path().to_owned());
    for name in 0..20 {
        fs::create_dir_all(layout.trash().join(name.to_string()).join("exec")).unwrap();
    }
    // No folder, which is never put there.
    fs::write(layout.trash().join("file"), "").unwrap();
    assert!(state::empty_trash(&layout).is_err());
    assert_eq!(fs::read_dir(layout.trash()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_noticed_at_the_next_read() {
    let dir = TempDir::new().unwrap();
    let settings = DiskSettings::new(dir.path(), 1 << 30);
    // Without memory, so that small blobs are read from their files.
    let settings = DiskSettings { memory_bytes: 0, scrub_bytes_per_second: 0, ..settings };
    let store = Store::open_with(settings);
    let mut damaged = 0;
    for len in LENS {
        let damages: [fn(&Path); 4] = [
            |path| fs::write(path, "other").unwrap(),
            |path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[0] ^= 1;
                fs::write(path, bytes).unwrap();
            },
            |path| fs::File::options().append(true).open(path).unwrap().set_len(1).unwrap(),
            |path| {
                fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
            },
        ];
        for damage in damages {
            let digest = store.put(len).await;
            let path = store.path(Kind::Blob, digest);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            damage(&path);
            damaged += 1;
            assert!(!store.reads(digest).await, "{len} bytes");
            assert!(!store.is_there(digest).await);
            assert!(fs::symlink_metadata(&path).is_err());
            assert_eq!(store.disk.stats().damaged, damaged);
        }
        let digest = store.put(len).await;
        fs::remove_file(store.path(Kind::Blob, digest)).unwrap();
        assert!(!store.reads(digest).await);
        assert!(!store.is_there(digest).await);
        // Touched, but as it was.
        let digest = store.put(len).await;
        let file = fs::File::open(store.path(Kind::Blob, digest)).unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
        assert!(store.reads(digest).await);
        assert!(file::is_sealed(&file.metadata().unwrap(), len as u64, store.disk.mtime));
    }
    assert_eq!(
        store.disk.stats().taken_bytes,
        LENS.map(|len| index::charge(len as u64)).iter().sum::<u64>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_result_is_dropped() {
    let dir = TempDir::new().unwrap();
    let settings = DiskSettings { memory_bytes: 0, ..DiskSettings::new(dir.path(), 1 << 30) };
    let store = Store::open_with(settings);
    let action = Digest::of(Function::Sha256, b"action");
    store.results().put(action, ActionResult::default()).await.unwrap();
    assert!(store.results().get(action).await.unwrap().is_some());
    change_unseen(&store.path(Kind::Result, action));
    assert!(store.results().get(action).await.unwrap().is_none());
    assert_eq!(store.disk.stats().damaged, 1);
    assert_eq!(store.disk.stats().results, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrubber_finds_what_no_metadata_tells() {
    let dir = TempDir::new().unwrap();
    let settings = DiskSettings::new(dir.path(), 1 << 30);
    let store = Store::open(dir.path(), 1 << 30);
    let (good, bad) = (store.put(2 << 20).await, store.put(2 << 20).await);
    change_unseen(&store.path(Kind::Blob, bad));
    store.close().await;
    let store = Store::open_with(DiskSettings { scrub_bytes_per_second: 1 << 30, ..settings });
    until(|| store.disk.stats().damaged == 1).await;
    assert!(store.is_there(good).await);
    assert!(!store.is_there(bad).await);
    store.close().await;

    let store = Store::open(dir.path(), 1 << 30);
    let gone = store.put(100).await;
    fs::remove_file(store.path(Kind::Blob, gone)).unwrap();
    let slots = store.disk.index().slots();
    for slot in 0..slots {
        store.disk.scrub_slot(slot, false).await.unwrap();
    }
    assert!(!store.is_there(gone).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_is_given_as_the_file_that_it_is() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let digest = store.put(2 << 20).await;
    let range = Wanted::part(5, Some(10));
    let blob = store.cas().get(digest, range).await.unwrap();
    let Content::File(file) = blob.content else { panic!("{blob:?}") };
    assert_eq!(*file.path, store.path(Kind::Blob, digest));
    assert_eq!(file.range, 5..15);
    assert_eq!(file.path.metadata().unwrap().permissions().mode() & 0o7777, 0o444);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_foreign_name_keeps_nothing_else_from_being_found() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let there = store.put(100).await;
    let folder = store.path(Kind::Blob, there).parent().unwrap().parent().unwrap().to_owned();
    fs::write(folder.join("notes"), "").unwrap();
    store.kill().await;
    let store = Store::open(dir.path(), 1 << 30);
    store.until_complete().await;
    assert_eq!(store.disk.stats().blobs, 1);
    assert!(store.is_there(there).await);
}
