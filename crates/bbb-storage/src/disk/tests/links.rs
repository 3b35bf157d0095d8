//! Hard links to blobs.

use std::os::unix::fs::MetadataExt as _;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_linked_and_executables_are_copies_of_their_own() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let files = store.disk.local_files(&InstanceName::default());
    for len in [0, 1, 100_000] {
        let digest = store.put(len).await;
        let to = |name: &str| store.disk.scratch().join(format!("{name}-{len}"));
        for executable in [false, true] {
            let file = files.pin(digest, executable).await.unwrap();
            for name in ["one", "two"] {
                let to = to(&format!("{name}-{executable}"));
                file.link(&to).unwrap();
                assert_eq!(Digest::of(Function::Sha256, &fs::read(&to).unwrap()), digest);
                let mode = to.metadata().unwrap().permissions().mode() & 0o7777;
                assert_eq!(mode, if executable { 0o555 } else { 0o444 });
                assert!(file.link(&to).is_err(), "there is one already");
            }
        }
        let inode = |name: &str| fs::metadata(to(name)).unwrap().ino();
        assert_ne!(inode("one-false"), inode("one-true"), "a chmod would reach the blob");
        if len > 0 {
            assert_eq!(inode("one-true"), inode("two-true"));
        }
    }
    assert_eq!(store.disk.stats().executables, 2);
    let absent = Digest::of(Function::Sha256, b"absent");
    for executable in [false, true] {
        let pinned = files.pin(absent, executable).await;
        assert!(matches!(pinned, Err(Error::Missing(_))), "{pinned:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_never_linked() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let files = store.disk.local_files(&InstanceName::default());
    for (kind, executable) in [(Kind::Blob, false), (Kind::Executable, true)] {
        let digest = store.put(100).await;
        let file = files.pin(digest, executable).await.unwrap();
        let path = store.path(kind, digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&path, "other").unwrap();
        let to = store.disk.scratch().join(digest.hex().as_str());
        assert!(matches!(file.link(&to), Err(Error::Missing(_))));
        assert!(!to.exists());
        // A new copy is made for the next one, where the blob itself is good.
        assert_eq!(files.pin(digest, executable).await.is_ok(), executable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_never_made_an_executable() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let files = store.disk.local_files(&InstanceName::default());
    let digest = store.put(100).await;
    let path = store.path(Kind::Blob, digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    // As long as it was.
    fs::write(&path, [1; 100]).unwrap();
    let pinned = files.pin(digest, true).await;
    assert!(matches!(pinned, Err(Error::Missing(_))), "{pinned:?}");
    assert!(!store.is_there(digest).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_takes_more_links_than_the_file_system_allows_one() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let digest = store.put(100).await;
    let path = store.path(Kind::Blob, digest);
    let scratch = store.disk.scratch();
    let full_at =
        (0..70_000).find(|number| fs::hard_link(&path, scratch.join(number.to_string())).is_err());
    let inode = path.metadata().unwrap().ino();
    let file = store.disk.local_files(&InstanceName::default()).pin(digest, false).await.unwrap();
    for name in ["more", "and more"] {
        file.link(&scratch.join(name)).unwrap();
        assert_eq!(fs::read(scratch.join(name)).unwrap(), fs::read(scratch.join("0")).unwrap());
    }
    let is_new = path.metadata().unwrap().ino() != inode;
    assert_eq!(is_new, full_at.is_some(), "a new file where the old one was full");
    assert!(store.reads(digest).await);
    assert_eq!(store.disk.stats().taken_bytes, index::charge(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_taken_over_without_a_copy_unless_it_has_other_links() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    for other_links in [false, true] {
        let bytes = conformance::data(100_000);
        let digest = Digest::of(Function::Sha256, &bytes);
        let path = store.disk.scratch().join(digest.hex().as_str());
        fs::write(&path, &bytes).unwrap();
        let other = path.with_extension("other");
        if other_links {
            fs::hard_link(&path, &other).unwrap();
        }
        let inode = path.metadata().unwrap().ino();
        let file = crate::HashedFile::hash(Function::Sha256, &path).unwrap();
        store.cas().put(digest, file.into()).await.unwrap();
        let stored = store.path(Kind::Blob, digest).metadata().unwrap();
        assert_eq!(stored.ino() == inode, !other_links);
        assert_eq!(stored.permissions().mode() & 0o7777, 0o444);
        if other_links {
            fs::write(&other, "changed later").unwrap();
        }
        assert!(store.reads(digest).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_after_it_was_hashed_is_not_copied() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let path = store.disk.scratch().join("file");
    fs::write(&path, "before").unwrap();
    fs::hard_link(&path, path.with_extension("other")).unwrap();
    let file = crate::HashedFile::hash(Function::Sha256, &path).unwrap();
    let digest = file.digest();
    fs::write(&path, "after!").unwrap();
    let put = store.cas().put(digest, file.into()).await;
    assert!(matches!(put, Err(Error::Mismatch { .. })), "{put:?}");
    assert!(!store.is_there(digest).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_put_anew_meanwhile_is_linked_all_the_same() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1 << 30);
    let digest = store.put(100).await;
    let file = store.disk.local_files(&InstanceName::default()).pin(digest, false).await.unwrap();
    // What puts that run at once do: each puts its own file in the same place.
    let path = store.path(Kind::Blob, digest);
    let replacing = tokio::task::spawn_blocking({
        let (disk, path) = (Arc::clone(&store.disk), path.clone());
        move || {
            for at in 0..500 {
                let copy = disk.scratch().join(format!("copy-{at}"));
                fs::copy(&path, &copy).unwrap();
                file::seal(&fs::File::open(&copy).unwrap(), Kind::Blob, disk.mtime).unwrap();
                let _gate = disk.gate(digest);
                fs::rename(&copy, &path).unwrap();
            }
        }
    });
    let linking = tokio::task::spawn_blocking({
        let disk = Arc::clone(&store.disk);
        move || {
            for at in 0..500 {
                file.link(&disk.scratch().join(format!("link-{at}"))).unwrap();
            }
        }
    });
    linking.await.unwrap();
    replacing.await.unwrap();
}
