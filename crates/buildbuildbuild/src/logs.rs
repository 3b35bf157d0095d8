//! The logs of a node, put together.

use std::{io, sync::Arc};

use bbb_lifecycle::TaskGroup;
use bbb_storage::{ActionCache, Bucket, Disk, Instances, LocalLogs, Logs};

use crate::membership::Membership;

/// The logs of a node: those that grow here, and all that there are in its cluster.
pub(crate) struct NodeLogs {
    pub(crate) local: Arc<LocalLogs>,
    pub(crate) all: Arc<dyn Logs>,
}

impl NodeLogs {
    /// The logs of the node of this name. Which blobs they have become stands in the bucket if there is one, else on the disk.
    ///
    /// # Errors
    /// If their folder cannot be made.
    pub(crate) fn start(
        node_name: &str,
        disk: &Arc<Disk>,
        bucket: Option<&Arc<Bucket>>,
        membership: Option<&Membership>,
        instances: &Arc<Instances>,
        tasks: &TaskGroup,
    ) -> io::Result<Self> {
        let folder = disk.dir().join("logs");
        let (near, far) = (Arc::clone(disk), bucket.cloned());
        let pages = move |name: &_| -> Arc<dyn ActionCache> {
            match &far {
                Some(bucket) => bucket.log_pages(name),
                None => near.action_cache(name),
            }
        };
        let local = LocalLogs::start(node_name, folder, Arc::clone(instances), pages, tasks)?;
        let all: Arc<dyn Logs> = match membership {
            Some(membership) => Arc::new(membership.share_logs(&local)),
            None => Arc::clone(&local) as _,
        };
        Ok(Self { local, all })
    }
}
