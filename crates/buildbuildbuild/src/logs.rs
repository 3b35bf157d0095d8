//! The logs of a node, put together.

use std::{io, sync::Arc};

use bbb_lifecycle::{Stop, TaskGroup};
use bbb_reapi::LogHost;
use bbb_storage::{
    ActionCache, Bucket, Disk, Instances, JournalFolder, JournalStore, LocalLogs, LogStores, Logs,
};

use crate::membership::Membership;

/// The logs of a node: those that grow here, and all that there are in its cluster.
pub(crate) struct NodeLogs {
    pub(crate) local: Arc<LocalLogs>,
    pub(crate) all: Arc<dyn Logs>,
}

impl NodeLogs {
    /// The logs of the node of this name. Which blobs they have become, and what those got that still grow, stands in the
    /// bucket if there is one, else on the disk. Who reads what may go on for long is told to leave when `leaving` is requested.
    ///
    /// # Errors
    /// If their folders cannot be made.
    pub(crate) fn start(
        node_name: &str,
        disk: &Arc<Disk>,
        bucket: Option<&Arc<Bucket>>,
        membership: Option<&Membership>,
        instances: &Arc<Instances>,
        tasks: &TaskGroup,
        leaving: Stop,
    ) -> io::Result<Self> {
        let folder = disk.dir().join("logs");
        let journals: Arc<dyn JournalStore> = match bucket {
            Some(bucket) => bucket.log_journals(),
            None => {
                let host = LogHost::of_node(node_name);
                JournalFolder::start(folder.join("journal"), host, disk.lodging(), tasks)?
            }
        };
        let (near, far) = (Arc::clone(disk), bucket.cloned());
        let pages = move |name: &_| -> Arc<dyn ActionCache> {
            match &far {
                Some(bucket) => bucket.log_pages(name),
                None => near.log_pages(name),
            }
        };
        let stores = LogStores { pages: Box::new(pages), journals, lodging: disk.lodging() };
        let (written, instances) = (folder.join("written"), Arc::clone(instances));
        let local = LocalLogs::start(node_name, written, instances, stores, tasks, leaving)?;
        let all: Arc<dyn Logs> = match membership {
            Some(membership) => Arc::new(membership.share_logs(&local)),
            None => Arc::clone(&local) as _,
        };
        Ok(Self { local, all })
    }
}
