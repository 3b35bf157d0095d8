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

    /// Whether this node has company.
    pub fn is_alone(&self) -> bool {
        self.members.len() == 1
    }
}
