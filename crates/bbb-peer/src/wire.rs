//! Between messages of [`crate::proto`] and values that cannot be wrong.

use std::sync::Arc;

use bbb_cluster::{ClusterView, Load, Member, MemberId, Properties};
use bbb_digest::Digest;
use bbb_reapi::{announced_function, function_code};

use crate::proto;

/// The code and bytes of a digest.
pub(crate) fn digest(digest: Digest) -> proto::Digest {
    proto::Digest {
        function: function_code(digest.function()) as i32,
        hash: bytes::Bytes::copy_from_slice(digest.hash()),
        size_bytes: digest.size_bytes(),
    }
}

/// A digest that came; none if it is none.
pub(crate) fn read_digest(message: &proto::Digest) -> Option<Digest> {
    let function = announced_function(message.function)?;
    Digest::from_raw(function, &message.hash, message.size_bytes).ok()
}

/// What names a node that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeKey {
    pub(crate) name: Arc<str>,
    pub(crate) generation: u64,
}

impl From<&MemberId> for NodeKey {
    fn from(id: &MemberId) -> Self {
        Self { name: Arc::clone(&id.name), generation: id.generation }
    }
}

impl From<proto::NodeId> for NodeKey {
    fn from(id: proto::NodeId) -> Self {
        Self { name: id.name.into(), generation: id.generation }
    }
}

impl From<&MemberId> for proto::NodeId {
    fn from(id: &MemberId) -> Self {
        Self { name: id.name.to_string(), generation: id.generation }
    }
}

/// The other member that a key names, if it is in the view.
pub(crate) fn other_member<'a>(view: &'a ClusterView, key: &NodeKey) -> Option<&'a MemberId> {
    let is_it =
        |member: &&Member| member.id.generation == key.generation && member.id.name == key.name;
    view.others().find(is_it).map(|member| &member.id)
}

impl From<Properties> for proto::Properties {
    fn from(properties: Properties) -> Self {
        let Properties { version, slots, platform, is_leaving, load } = properties;
        let Load { running, queued, per_processor, stored_bytes } = load;
        Self {
            version,
            slots,
            platform: platform.into_iter().collect(),
            is_leaving,
            load: Some(proto::Load { running, queued, per_processor, stored_bytes }),
        }
    }
}

impl From<proto::Properties> for Properties {
    fn from(message: proto::Properties) -> Self {
        let proto::Properties { version, slots, platform, is_leaving, load } = message;
        let proto::Load { running, queued, per_processor, stored_bytes } = load.unwrap_or_default();
        Self {
            version,
            slots,
            platform: platform.into_iter().collect(),
            is_leaving,
            load: Load { running, queued, per_processor, stored_bytes },
        }
    }
}
