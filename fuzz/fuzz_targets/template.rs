//! Any text is a template that ends, and gives the same again, or is refused.
#![no_main]

use std::net::Ipv6Addr;
use std::sync::{Arc, LazyLock};

use bbb_sockaddr::{Flags, Interface, InterfaceAddress, Interfaces, SockAddr, evaluate};
use libfuzzer_sys::fuzz_target;

/// A host with loopback and one network of each family.
static HOST: LazyLock<Interfaces> = LazyLock::new(|| {
    let interface = |name: &str, index, loopback| {
        let flags = Flags { up: true, running: true, loopback, ..Flags::default() };
        Arc::new(Interface {
            index,
            mtu: 1500,
            name: name.to_owned(),
            flags,
            ..Interface::default()
        })
    };
    let (lo, eth0) = (interface("lo", 1, true), interface("eth0", 2, false));
    let at = |interface: &Arc<Interface>, address| InterfaceAddress {
        address,
        interface: Arc::clone(interface),
    };
    let addresses = vec![
        at(&lo, SockAddr::v4([127, 0, 0, 1].into(), 8)),
        at(&lo, SockAddr::v6(Ipv6Addr::LOCALHOST, 128)),
        at(&eth0, SockAddr::v4([10, 1, 2, 3].into(), 24)),
        at(&eth0, SockAddr::v4([203, 0, 113, 9].into(), 28)),
        at(&eth0, SockAddr::v6([0xfd00, 0, 0, 0, 0, 0, 0, 7].into(), 64)),
    ];
    Interfaces::new(addresses, Some("eth0".to_owned()))
});

fuzz_target!(|text: &str| {
    let given = evaluate(text, &HOST);
    if !text.contains("{{") {
        assert_eq!(
            given.as_deref().ok(),
            Some(text).filter(|text| text.len() <= bbb_sockaddr::MAX_TEMPLATE_BYTES)
        );
    }
    assert_eq!(given.ok(), evaluate(text, &HOST).ok());
});
