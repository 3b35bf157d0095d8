//! A file system that is full before the limit is met.

use std::process::Command;

use super::*;

/// Names the folder, on a small file system, to the child of the test.
const CHILD_DIR: &str = "BBB_STORAGE_FULL_TEST_DIR";

/// Not a test of its own: what the next one runs on a file system of 8 MiB.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_full_file_system_makes_room_and_recovers"]
async fn child_on_a_small_file_system() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let dir = Path::new(&dir);
    let store = Store::open(&dir.join("store"), 1 << 30);
    let mut digests = Vec::new();
    for round in 0..40 {
        // Small ones, such as are gathered, and ones that come in pieces.
        let len = if round % 2 == 0 { 400_000 } else { 2 << 20 };
        let bytes = conformance::data(len);
        let digest = Digest::of(Function::Sha256, &bytes);
        let pieces: Vec<_> = bytes.chunks(300_000).map(|piece| Ok(piece.to_vec().into())).collect();
        let content = crate::SourceContent::Stream(Box::pin(futures::stream::iter(pieces)));
        let source = crate::Source { encoding: crate::Encoding::Identity, content };
        store.cas().put(digest, source).await.unwrap();
        assert!(store.reads(digest).await);
        store.results().put(digest, ActionResult::default()).await.unwrap();
        digests.push(digest);
    }
    assert!(store.disk.stats().evictions > 0);
    assert!(!store.is_there(digests[0]).await);
    // What one frees another may take before it: nobody is told that there is no room for that.
    let writers = (0..8).map(|number| {
        let store = &store;
        async move {
            for _ in 0..15 {
                try_put(store, 20_000 + number * 60_000).await.unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
    // Someone else takes what is left, and what is stored is in use.
    let last = store.put(2 << 20).await;
    let in_use = store.cas().get(last, Wanted::ALL).await.unwrap();
    let foreign = dir.join("foreign");
    let fill = || {
        let mut file = fs::File::options().create(true).append(true).open(&foreign).unwrap();
        while io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    };
    for _ in 0..20 {
        fill();
        let put = try_put(&store, 3 << 20).await;
        assert!(matches!(put, Err(Error::Full { .. })) || store.disk.stats().blobs > 1, "{put:?}");
    }
    while let Some(victims) = store.disk.take_victims(0) {
        store.disk.remove_victims(victims);
    }
    fill();
    let put = try_put(&store, 3 << 20).await;
    assert!(matches!(put, Err(Error::Full { .. })), "{put:?}");
    assert_eq!(conformance::read_all(in_use).await.unwrap().len(), 2 << 20);
    // It recovers by itself.
    fs::remove_file(&foreign).unwrap();
    try_put(&store, 3 << 20).await.unwrap();
    assert_eq!(temporary_files(&store), 0);
    println!("all went well");
}

async fn try_put(store: &Store, len: usize) -> Result<()> {
    let bytes = conformance::data(len);
    store.cas().put(Digest::of(Function::Sha256, &bytes), bytes.into()).await
}

#[test]
fn a_full_file_system_makes_room_and_recovers() {
    let dir = TempDir::new().unwrap();
    // A small file system that only the child sees.
    let small = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]);
        command.arg(format!("mount -t tmpfs -o size=8m tmpfs \"$0\"; {script}")).arg(dir.path());
        command
    };
    if !small("true").status().is_ok_and(|status| status.success()) {
        eprintln!("not tried: no file system can be mounted here");
        return;
    }
    let child = small(
        "exec \"$1\" --exact disk::tests::full::child_on_a_small_file_system --ignored --nocapture",
    )
    .arg(std::env::current_exe().unwrap())
    .env(CHILD_DIR, dir.path())
    .output()
    .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && out.contains("all went well"), "{out}\n{err}");
}
