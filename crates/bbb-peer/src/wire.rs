//! Between messages of [`crate::proto`] and values that cannot be wrong.

use bbb_cluster::{ClusterView, Load, MemberId, Properties};
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

/// The other member of a name, if it is in the view: the one that started last, should there be two for a moment.
pub(crate) fn other_member<'a>(view: &'a ClusterView, name: &str) -> Option<&'a MemberId> {
    let named = view.others().filter(|member| *member.id.name == *name);
    named.map(|member| &member.id).max()
}

/// The member that an introduction is about; none if its addresses are none.
pub(crate) fn read_member(introduction: &proto::Introduction) -> Option<MemberId> {
    Some(MemberId {
        name: introduction.name.as_str().into(),
        generation: introduction.generation,
        gossip: introduction.gossip_address.parse().ok()?,
        port: introduction.port_address.parse().ok()?,
    })
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
