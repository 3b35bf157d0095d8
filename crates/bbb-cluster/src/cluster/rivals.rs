//! Other nodes that claim this node's name.

use std::time::Duration;

use crate::MemberId;

/// How long another node may have this node's name before it is called out: a node that was here before, and is not
/// noticed to be gone yet, is no rival.
const BORNE_FOR: Duration = Duration::from_secs(10);

/// How often it is called out.
const CALLED_OUT_EVERY: Duration = Duration::from_secs(60);

/// Since when there are any, and when they were called out last.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    since: Option<Duration>,
    called_out: Option<Duration>,
}

impl Rivals {
    /// Takes note of those that live and claim the name.
    pub(super) fn look<'a>(
        &mut self,
        me: &MemberId,
        mut rivals: impl Iterator<Item = &'a MemberId>,
        now: Duration,
    ) {
        let Some(rival) = rivals.next() else {
            self.since = None;
            return;
        };
        let since = *self.since.get_or_insert(now);
        let is_quiet =
            self.called_out.is_none_or(|then| now.saturating_sub(then) >= CALLED_OUT_EVERY);
        if now.saturating_sub(since) < BORNE_FOR || !is_quiet {
            return;
        }
        self.called_out = Some(now);
        if rival > me {
            tracing::error!(
                name = %me.name, rival = %rival.gossip,
                "another node has this node's name and started later: the cluster counts it as the member and leaves \
                 this one out. Give each node its own --node_name, or stop one of them",
            );
        } else {
            tracing::warn!(
                name = %me.name, rival = %rival.gossip,
                "another node has this node's name and started earlier: the cluster leaves it out. Give each node its \
                 own --node_name, or stop one of them",
            );
        }
    }
}
