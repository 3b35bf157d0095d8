//! Who a node is and where its gossip is reached, as bytes: what is announced and left in the bucket.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::MemberId;

/// The longest name of a node that is told and believed, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The longest contact as bytes, with room for what later versions say.
pub(super) const MAX_CONTACT_BYTES: usize = 512;

/// A node says who it is and where its gossip is reached.
///
/// Nothing is changed by it: whoever reads it asks there by gossip. Later versions may put more at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contact {
    /// Whether it calls nodes that it does not know, and so wants an answer.
    pub(super) is_call: bool,
    name: Arc<str>,
    generation: u64,
    gossip: SocketAddr,
}

impl Contact {
    /// That of `me`.
    pub(super) fn of(me: &MemberId, is_call: bool) -> Self {
        Self { is_call, name: Arc::clone(&me.name), generation: me.generation, gossip: me.gossip }
    }

    /// As bytes; none if they would not be believed.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        postcard::to_stdvec(self)
            .ok()
            .filter(|bytes| bytes.len() <= MAX_CONTACT_BYTES && self.is_sound())
    }

    /// From any bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_CONTACT_BYTES {
            return None;
        }
        let (contact, _later) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        contact.is_sound().then_some(contact)
    }

    /// Whether it is that of `id`.
    pub(super) fn is_of(&self, id: &MemberId) -> bool {
        self.name == id.name && self.generation == id.generation
    }

    /// The node's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// When the node started.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Where its gossip is reached by who got this from `source`: a node that advertises no address is reached at
    /// the one from which it sends, and a link-local address is one of the link by which it came.
    pub(super) fn gossip_from(&self, source: SocketAddr) -> SocketAddr {
        let mut gossip = if self.gossip.ip().is_unspecified() { source } else { self.gossip };
        gossip.set_port(self.gossip.port());
        if let (SocketAddr::V6(gossip), SocketAddr::V6(source)) = (&mut gossip, source)
            && gossip.ip().is_unicast_link_local()
        {
            gossip.set_scope_id(source.scope_id());
        }
        gossip
    }

    /// Where its gossip is reached, if it advertises an address.
    pub(super) fn gossip(&self) -> Option<SocketAddr> {
        Some(self.gossip).filter(|gossip| !gossip.ip().is_unspecified())
    }

    fn is_sound(&self) -> bool {
        let is_named = (1..=MAX_NAME_BYTES).contains(&self.name.len());
        let reaches_one = match self.gossip.ip() {
            IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
            IpAddr::V6(ip) => !ip.is_multicast(),
        };
        is_named && reaches_one && self.gossip.port() != 0
    }
}

/// What must hold of any bytes that were sealed: they are a contact that can be written and read again, or nothing.
///
/// # Panics
/// If it does not.
#[cfg(any(test, feature = "hostile"))]
#[expect(clippy::expect_used, reason = "it is a check")]
pub fn check_contact(bytes: &[u8]) {
    if let Some(contact) = Contact::decode(bytes) {
        let written = contact.encode().expect("what was read can be written");
        assert_eq!(Contact::decode(&written).as_ref(), Some(&contact));
        let reached = contact.gossip_from(SocketAddr::from(([10, 0, 0, 1], 1)));
        assert!(
            reached.port() != 0 && !reached.ip().is_unspecified() && !reached.ip().is_multicast()
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str, gossip: SocketAddr) -> MemberId {
        MemberId { name: name.into(), generation: 5, gossip, port: gossip }
    }

    fn of(name: &str, gossip: &str) -> Contact {
        Contact::of(&id(name, gossip.parse().unwrap()), true)
    }

    #[test]
    fn an_address_that_is_none_is_where_the_packet_came_from() {
        let from = "[fe80::1%3]:9".parse().unwrap();
        assert_eq!(of("a", "[::]:7946").gossip_from(from), "[fe80::1%3]:7946".parse().unwrap());
        assert_eq!(of("a", "0.0.0.0:7946").gossip_from(from), "[fe80::1%3]:7946".parse().unwrap());
        assert_eq!(of("a", "10.0.0.1:7946").gossip_from(from), "10.0.0.1:7946".parse().unwrap());
        assert_eq!(
            of("a", "[fe80::2]:7946").gossip_from(from),
            "[fe80::2%3]:7946".parse().unwrap()
        );
        assert_eq!(of("a", "[fd00::2]:7946").gossip_from(from), "[fd00::2]:7946".parse().unwrap());
        assert_eq!(of("a", "0.0.0.0:7946").gossip(), None);
    }

    #[test]
    fn later_versions_may_say_more() {
        let known = of("a", "10.0.0.1:7946");
        let mut bytes = known.encode().unwrap();
        bytes.extend(b"more");
        assert_eq!(Contact::decode(&bytes), Some(known));
    }

    #[test]
    fn what_makes_no_sense_is_neither_said_nor_heard() {
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        for (name, gossip) in [
            ("", "10.0.0.1:1"),
            (&long, "10.0.0.1:1"),
            ("a", "10.0.0.1:0"),
            ("a", "224.0.0.1:1"),
            ("a", "255.255.255.255:1"),
            ("a", "[ff02::1]:1"),
        ] {
            let contact = of(name, gossip);
            assert_eq!(contact.encode(), None, "{name} {gossip}");
            assert_eq!(Contact::decode(&postcard::to_stdvec(&contact).unwrap()), None);
        }
        assert!(of(&long[1..], "10.0.0.1:1").encode().unwrap().len() <= MAX_CONTACT_BYTES);
        let huge =
            [of("a", "10.0.0.1:7946").encode().unwrap(), vec![0; MAX_CONTACT_BYTES]].concat();
        assert_eq!(Contact::decode(&huge), None);
    }

    proptest! {
        #[test]
        fn any_contact_is_read_as_it_was_written(
            name in "\\PC{1,60}", generation: u64, v6: bool, ip: u128, port in 1..=u16::MAX, is_call: bool,
        ) {
            let ip = if v6 { IpAddr::from(ip.to_be_bytes()) } else { IpAddr::from((ip as u32).to_be_bytes()) };
            let id = MemberId { generation, ..id(&name, SocketAddr::new(ip, port)) };
            let contact = Contact::of(&id, is_call);
            match contact.encode() {
                Some(bytes) => prop_assert_eq!(Contact::decode(&bytes), Some(contact)),
                None => prop_assert!(ip.is_multicast() || ip == IpAddr::from([255; 4]) || name.len() > MAX_NAME_BYTES),
            }
        }

        #[test]
        fn any_bytes_are_a_contact_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            check_contact(&bytes);
        }

        #[test]
        fn a_changed_contact_is_one_or_nothing(at: prop::sample::Index, with: u8) {
            let mut bytes = of("some-node", "[fd00::1]:7946").encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            check_contact(&bytes);
        }
    }
}
