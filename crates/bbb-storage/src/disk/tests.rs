//! Tests of the disk tier as a whole.

use std::{fs, time::Duration};

use bbb_digest::Function;
use tempfile::TempDir;

use super::*;
use crate::{ByteRange, CasExt as _, conformance};

/// A store that can be closed and opened again in its folder.
struct Store {
    disk: Arc<Disk>,
    group: TaskGroup,
}

impl Store {
    fn open(dir: &Path, limit_bytes: u64) -> Self {
        Self::open_with(DiskSettings {
            scrub_bytes_per_second: 0,
            ..DiskSettings::new(dir, limit_bytes)
        })
    }

    fn open_with(settings: DiskSettings) -> Self {
        let group = TaskGroup::new("disk");
        Self { disk: Disk::open(settings, &group).unwrap(), group }
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

    fn path(&self, kind: Kind, digest: Digest) -> PathBuf {
        self.disk.layout.entry("%", kind, digest)
    }

    /// Ends as a process does that is killed, but for the lock.
    async fn kill(self) {
        assert_eq!(self.group.shut_down(Duration::from_secs(60)).await, 0);
    }

    async fn close(self) {
        assert_eq!(self.group.shut_down(Duration::from_secs(60)).await, 0);
        self.disk.close().await.unwrap();
    }
}

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
    assert_eq!(
        fs::read_dir(store.disk.layout.tmp()).unwrap().count(),
        0,
        "temporary files are left"
    );
    store.close().await;
}
