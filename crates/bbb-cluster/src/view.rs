//! The cluster as one node sees it: a value, replaced as a whole when it changes.

use std::sync::Arc;

use crate::{Member, MemberId, ring::seed};

/// All members that this node has met and admitted, itself among them, sorted by name and generation.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterView {
    /// This node.
    me: MemberId,
    members: Arc<[Member]>,
    /// What stands for each of them where owners are looked for, in the same order: made once, needed for each digest.
    pub(crate) seeds: Arc<[u64]>,
}

impl ClusterView {
    /// A view of `others` and of this node.
    pub fn new(me: Member, others: impl IntoIterator<Item = Member>) -> Self {
        let id = me.id.clone();
        let mut members: Vec<Member> = others.into_iter().chain([me]).collect();
        members.sort_by(|a, b| (&a.id.name, a.id.generation).cmp(&(&b.id.name, b.id.generation)));
        let seeds = members.iter().map(|member| seed(&member.id.name)).collect();
        Self { me: id, members: members.into(), seeds }
    }

    /// This node.
    pub const fn me(&self) -> &MemberId {
        &self.me
    }

    /// This node, with what it says of itself.
    pub fn own(&self) -> &Member {
        // It was put there when the view was made.
        self.members.iter().find(|member| member.id == self.me).unwrap_or(&self.members[0])
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Everyone but this node.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.id != self.me)
    }

    /// The member that schedules the work of all: the one that has been there longest, of those that are not about to
    /// leave.
    ///
    /// It stays the same when others join, since they began later (clocks differ by less than nodes live: packets of
    /// clocks that are minutes apart do not open), and it moves when that member is lost. A node that was lost and comes
    /// back has begun anew.
    pub fn scheduler(&self) -> &Member {
        let began = |member: &&Member| (member.properties.is_leaving, member.id.generation);
        // There is always one; of those that began at once the first by name is taken.
        self.members.iter().min_by_key(began).unwrap_or(&self.members[0])
    }

    /// Whether this node has company.
    pub fn is_alone(&self) -> bool {
        self.members.len() == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Properties;

    fn member(name: &str, generation: u64, is_leaving: bool) -> Member {
        let address = ([127, 0, 0, 1], 1).into();
        let id = MemberId { name: name.into(), generation, gossip: address, port: address };
        Member { id, properties: Properties { is_leaving, ..Properties::default() } }
    }

    #[test]
    fn the_scheduler_stays_when_nodes_join_and_moves_when_it_leaves() {
        let named = |view: &ClusterView| view.scheduler().id.name.to_string();
        let (me, old, young) =
            (member("b", 5, false), member("c", 3, false), member("a", 9, false));
        let both = ClusterView::new(me.clone(), [old.clone()]);
        assert_eq!(named(&both), "c");
        assert_eq!(named(&ClusterView::new(me.clone(), [old, young.clone()])), "c");
        assert_eq!(named(&ClusterView::new(me.clone(), [member("c", 3, true), young])), "b");
        assert_eq!(named(&ClusterView::new(member("b", 5, true), [member("c", 3, true)])), "c");
        assert_eq!(named(&ClusterView::new(me, [member("a", 5, false)])), "a");
    }
}
