//! The groups of a node's tasks.

use bbb_lifecycle::TaskGroup;

/// The groups of a node's tasks, in the order in which they stop: whoever asks before whoever answers.
pub(crate) struct Groups {
    /// Ways to meet other nodes: who leaves attracts nobody.
    pub(crate) meeting: TaskGroup,
    pub(crate) doors: TaskGroup,
    /// Fetches of remote assets.
    pub(crate) assets: TaskGroup,
    pub(crate) worker: TaskGroup,
    pub(crate) scheduler: TaskGroup,
    pub(crate) cleaning: TaskGroup,
    pub(crate) tiers: TaskGroup,
    /// Connections to other nodes.
    pub(crate) peers: TaskGroup,
    pub(crate) gossip: TaskGroup,
    pub(crate) bucket: TaskGroup,
    pub(crate) disk: TaskGroup,
}

impl Groups {
    pub(crate) fn new() -> Self {
        Self {
            meeting: TaskGroup::new("meeting"),
            doors: TaskGroup::new("doors"),
            assets: TaskGroup::new("assets"),
            worker: TaskGroup::new("worker"),
            scheduler: TaskGroup::new("scheduler"),
            cleaning: TaskGroup::new("cleaning"),
            tiers: TaskGroup::new("tiers"),
            peers: TaskGroup::new("peers"),
            gossip: TaskGroup::new("gossip"),
            bucket: TaskGroup::new("bucket"),
            disk: TaskGroup::new("disk"),
        }
    }

    /// All of them, in the order in which they stop.
    pub(crate) const fn in_order(&self) -> [&TaskGroup; 11] {
        [
            &self.meeting,
            &self.doors,
            &self.assets,
            &self.worker,
            &self.scheduler,
            &self.cleaning,
            &self.tiers,
            &self.peers,
            &self.gossip,
            &self.bucket,
            &self.disk,
        ]
    }
}
