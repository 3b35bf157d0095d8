//! Over real sockets: on loopback, whose broadcast address reaches the programs of this host, and in a network
//! namespace, where there are interfaces with multicast and no other programs.

use std::{net::Ipv4Addr, process::Command};

use tokio::net::UdpSocket;

use super::{
    super::tests::{Bed, node},
    *,
};
use crate::MemberId;

/// A node that announces itself to `target`.
fn bed(me: MemberId, target: &str, ring: &KeyRing) -> Bed {
    Bed::new(me, Udp::new(UdpTarget::parse_list(target).unwrap(), ring))
}

/// A cluster of this test: others may run at the same time, and take a port that was just given back.
fn cluster() -> String {
    format!("{} of {}", std::thread::current().name().unwrap_or("a test"), std::process::id())
}

fn ring() -> KeyRing {
    KeyRing::open(&cluster())
}

/// Some port that is free.
async fn free_port() -> u16 {
    UdpSocket::bind("0.0.0.0:0").await.unwrap().local_addr().unwrap().port()
}

/// The broadcast address of loopback, with a port of its own.
async fn loopback() -> String {
    format!("127.255.255.255:{}", free_port().await)
}

/// Whoever sends to a target without being a node.
async fn stranger() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.set_broadcast(true).unwrap();
    socket
}

/// Nodes at these addresses meet each other by `target`.
async fn all_meet(target: &str, gossip: &[&str]) {
    let names: Vec<String> = (0..gossip.len()).map(|i| format!("node-{i}")).collect();
    let nodes =
        names.iter().zip(gossip).map(|(name, gossip)| bed(node(name, gossip), target, &ring()));
    for (i, mut node) in nodes.collect::<Vec<_>>().into_iter().enumerate() {
        let mut missing: Vec<SocketAddr> =
            gossip.iter().map(|address| address.parse().unwrap()).collect();
        missing.remove(i);
        while !missing.is_empty() {
            let found = node.next().await;
            assert_ne!(found, gossip[i].parse().unwrap(), "does not find itself");
            missing.retain(|address| *address != found);
        }
    }
}

#[tokio::test]
async fn several_nodes_of_one_host_meet() {
    all_meet(&loopback().await, &["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]).await;
}

#[tokio::test]
async fn a_node_that_advertises_no_address_is_found_where_it_sends_from() {
    let target = loopback().await;
    let mut a = bed(node("a", "127.0.0.1:1"), &target, &ring());
    let b = bed(node("b", "0.0.0.0:7946"), &target, &ring());
    assert_eq!(a.next().await, "127.0.0.1:7946".parse().unwrap());
    b.stop().await;
}

#[tokio::test]
async fn clusters_of_other_names_or_keys_stay_apart() {
    let target = loopback().await;
    let keys =
        crate::SecretKey::parse_list("Rg0Nn1cWl7VbWkBPp0XKLnXkW0VJcWmT1R8vG2pXqZE=").unwrap();
    let rings = [KeyRing::open("other"), KeyRing::new(&cluster(), &keys).unwrap()];
    let strangers: Vec<Bed> =
        rings.iter().map(|ring| bed(node("s", "127.0.0.1:9"), &target, ring)).collect();
    let mut a = bed(node("a", "127.0.0.1:1"), &target, &ring());
    let b = bed(node("b", "127.0.0.1:2"), &target, &ring());
    for _ in 0..4 {
        assert_eq!(a.next().await, "127.0.0.1:2".parse().unwrap());
    }
    for mut stranger in strangers {
        assert!(stranger.found.try_recv().is_err());
    }
    b.stop().await;
}

#[tokio::test]
async fn a_call_is_answered_to_whoever_made_it_if_it_is_not_known() {
    let target = loopback().await;
    let a = bed(node("a", "127.0.0.1:1"), &target, &ring());
    let (caller, sealer) = (stranger().await, Sealer::new(&ring(), Purpose::Udp));
    let caller_id = node("caller", "127.0.0.1:5");
    let call = |is_call| {
        sealer.seal(SystemTime::now(), &Contact::of(&caller_id, is_call).encode().unwrap())
    };
    let mut buffer = [0; 1500];
    // Calls until it is heard: the other may not listen yet.
    let (length, _) = loop {
        caller.send_to(&call(true), &target).await.unwrap();
        let answer = caller.recv_from(&mut buffer);
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(200), answer).await {
            break answer.unwrap();
        }
    };
    let opened = sealer.open(SystemTime::now(), &buffer[..length]).unwrap();
    let answer = Contact::decode(&opened.payload).unwrap();
    assert_eq!((answer.name(), answer.is_call), ("a", false));

    while caller.try_recv(&mut buffer).is_ok() {}
    a.sees([caller_id.clone()]);
    caller.send_to(&call(true), &target).await.unwrap();
    a.sees([]);
    caller.send_to(&call(false), &target).await.unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(300), caller.recv(&mut buffer)).await;
    // The view may have changed before the first of them was read; then there is one answer to it, but no more.
    if silence.is_ok() {
        let second =
            tokio::time::timeout(Duration::from_millis(300), caller.recv(&mut buffer)).await;
        assert!(second.is_err(), "an answer was answered");
    }
    a.stop().await;
}

#[tokio::test]
async fn hostile_packets_change_nothing() {
    let target = loopback().await;
    let mut a = bed(node("a", "127.0.0.1:1"), &target, &ring());
    let attacker = stranger().await;
    let sealer = Sealer::new(&ring(), Purpose::Udp);
    let other_purpose = Sealer::new(&ring(), Purpose::Gossip);
    let contact = Contact::of(&node("ghost", "127.0.0.1:66"), true).encode().unwrap();
    let old = SystemTime::now() - Duration::from_secs(1_000);
    let good = sealer.seal(SystemTime::now(), &contact);
    let forged = [&good[..good.len() - 1], &[good[good.len() - 1] ^ 1]].concat();
    let hostile = [
        Vec::new(),
        vec![0; 60_000],
        good[..40].to_vec(),
        forged,
        [&good[..], b"more"].concat(),
        sealer.seal(old, &contact),
        sealer.seal(SystemTime::now(), b"no contact"),
        sealer.seal(SystemTime::now(), &[&contact[..], &[0; 2_000]].concat()),
        other_purpose.seal(SystemTime::now(), &contact),
    ];
    for _ in 0..300 {
        for packet in &hostile {
            // The kernel may be out of buffers for a moment.
            let _ = attacker.send_to(packet, &target).await;
        }
    }
    let b = bed(node("b", "127.0.0.1:2"), &target, &ring());
    assert_eq!(a.next().await, "127.0.0.1:2".parse().unwrap(), "nobody else was found, and b was");
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn a_replayed_announcement_changes_nothing() {
    let target = loopback().await;
    let udp = Udp::new(UdpTarget::parse_list(&target).unwrap(), &ring());
    let from: SocketAddr = "127.0.0.1:5".parse().unwrap();
    let contact = Contact::of(&node("b", "127.0.0.1:2"), true).encode().unwrap();
    let packet = Sealer::new(&ring(), Purpose::Udp).seal(SystemTime::now(), &contact);
    assert!(udp.open(&packet, from).is_some());
    assert!(udp.open(&packet, from).is_none());
}

#[tokio::test]
async fn goes_on_trying_where_it_cannot_listen() {
    let port = free_port().await;
    // Somebody who does not share the port.
    let squatter = UdpSocket::bind(("0.0.0.0", port)).await.unwrap();
    let target = format!("127.255.255.255:{port}");
    let mut a = bed(node("a", "127.0.0.1:1"), &target, &ring());
    a.quiet(Duration::from_millis(300)).await;
    drop(squatter);
    let b = bed(node("b", "127.0.0.1:2"), &target, &ring());
    assert_eq!(a.next().await, "127.0.0.1:2".parse().unwrap());
    b.stop().await;
}

#[test]
fn calls_often_at_first() {
    assert_eq!(pause_after(Duration::ZERO), Duration::from_secs(1));
    assert_eq!(pause_after(Duration::from_secs(10)), Duration::from_secs(5));
}

/// The test that runs in a namespace.
const INSIDE: &str = "discovery::udp::tests::inside_a_namespace";
/// Two hosts' worth of interfaces in one namespace: a pair with addresses of both families, no default route.
const NETWORK: &str = "ip link set lo up &&
    ip link add near type veth peer name far && ip link set near up && ip link set far up &&
    ip address add 10.77.0.1/24 dev near && ip address add fd77::1/64 dev near nodad &&
    ip -6 address add fe80::77/64 dev near nodad";

/// Needs `unshare` and `ip`, and root or user namespaces.
#[test]
fn nodes_meet_by_broadcast_and_multicast_of_both_families() {
    let run = format!("{NETWORK} && exec \"$0\" --exact {INSIDE} --ignored --nocapture");
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--net", "--map-root-user", "sh", "-c", &run])
        .arg(std::env::current_exe().unwrap());
    let ran = unshare.output().expect("this test needs unshare(1)");
    let said =
        format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.contains("1 passed"), "in a network namespace:\n{said}");
}

#[tokio::test]
#[ignore = "run by the test above in a network namespace"]
async fn inside_a_namespace() {
    assert_eq!(
        networks::Networks::of_host().unwrap().reach(Ipv4Addr::new(10, 77, 0, 255)),
        networks::Reach::Network
    );
    for target in [
        "10.77.0.255:9876",
        // Without a default route.
        "255.255.255.255:9877",
        "224.0.0.177:9876",
        "239.7.7.7:9878",
        "[ff02::b3b]:9876",
        "[ff05::b3b]:9878",
    ] {
        let meet = all_meet(target, &["10.77.0.1:1", "10.77.0.1:2", "[fd77::1]:3"]);
        tokio::time::timeout(Duration::from_secs(20), meet)
            .await
            .unwrap_or_else(|_| panic!("nobody met by {target}"));
    }
    other_groups_are_not_heard().await;
    interfaces_may_come_later().await;
}

/// Two groups that share a port are two.
async fn other_groups_are_not_heard() {
    let mut a = bed(node("a", "10.77.0.1:1"), "239.7.7.7:9880,[ff05::7]:9880", &ring());
    let strangers = bed(node("s", "10.77.0.1:9"), "239.7.7.8:9880,[ff05::8]:9880", &ring());
    let b = bed(node("b", "10.77.0.1:2"), "[ff05::7]:9880", &ring());
    for _ in 0..3 {
        assert_eq!(a.next().await, "10.77.0.1:2".parse().unwrap());
    }
    strangers.stop().await;
    b.stop().await;
}

/// An interface that comes up after the nodes started is announced on as well.
async fn interfaces_may_come_later() {
    let target = "10.78.0.255:9881,239.8.8.8:9881";
    let ip = |words: &str| {
        let ran = Command::new("ip").args(words.split(' ')).status();
        assert!(ran.unwrap().success(), "ip {words}");
    };
    ip("link set near down");
    let mut a = bed(node("a", "10.78.0.1:1"), target, &ring());
    let mut b = bed(node("b", "10.78.0.1:2"), target, &ring());
    a.quiet(Duration::from_millis(1_500)).await;
    ip("link add later type veth peer name other");
    ip("address add 10.78.0.1/24 dev later");
    ip("link set later up");
    ip("link set other up");
    let both = async { (a.next().await, b.next().await) };
    let found = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    assert_eq!(found, ("10.78.0.1:2".parse().unwrap(), "10.78.0.1:1".parse().unwrap()));
}
