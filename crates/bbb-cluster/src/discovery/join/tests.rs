use std::{collections::HashMap, io, sync::Mutex};

use super::{
    super::tests::{Bed, node},
    *,
};

/// A resolver whose answers change.
#[derive(Clone, Default)]
struct Zone(Arc<Mutex<HashMap<String, Vec<SocketAddr>>>>);

impl Zone {
    fn set(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.0.lock().unwrap().insert(host.to_owned(), addresses);
    }
}

#[async_trait]
impl Resolve for Zone {
    async fn resolve(&self, target: &HostPort) -> io::Result<Vec<SocketAddr>> {
        let known = self.0.lock().unwrap().get(&target.to_string()).cloned();
        known.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name"))
    }
}

/// A node at 10.0.0.1 (and bound to 192.168.0.1) that goes through `list`.
fn bed(list: &str, zone: &Zone) -> Bed {
    let list = JoinList::parse(list, "192.168.0.1:7946".parse().unwrap()).unwrap();
    Bed::new(node("me", "10.0.0.1:7946"), list.with_resolver(Arc::new(zone.clone())))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn offers_all_addresses_of_a_name_but_its_own_and_does_so_at_once() {
    let zone = Zone::default();
    let own = ["10.0.0.1:7946", "192.168.0.1:7946", "[::ffff:10.0.0.1]:7946"];
    zone.set("a:7946", &[&own[..], &["10.0.0.2:7946", "[fd00::2]:7946", "10.0.0.2:7946"]].concat());
    let mut bed = bed("a:7946", &zone);
    let from = Instant::now();
    let found = BTreeSet::from([bed.next().await, bed.next().await]);
    assert_eq!(found, BTreeSet::from([address("10.0.0.2:7946"), address("[fd00::2]:7946")]));
    assert_eq!(from.elapsed(), Duration::ZERO);
    bed.quiet(Duration::from_secs(1)).await;
    bed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn asks_again_while_alone_and_hears_of_changes() {
    let zone = Zone::default();
    zone.set("a:1", &["10.0.0.2:1"]);
    let mut bed = bed("nobody:1,a:1", &zone);
    for _ in 0..3 {
        assert_eq!(bed.next().await, address("10.0.0.2:1"));
    }
    zone.set("a:1", &["10.0.0.3:1"]);
    let from = Instant::now();
    assert_eq!(bed.next().await, address("10.0.0.3:1"));
    assert!(from.elapsed() < 2 * ALONE);
    zone.set("nobody:1", &["10.0.0.4:1"]);
    zone.set("a:1", &[]);
    assert_eq!(bed.next().await, address("10.0.0.4:1"));
    bed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn goes_on_in_company_with_those_who_are_not_there() {
    let zone = Zone::default();
    zone.set("a:1", &["10.0.0.2:1", "10.0.0.3:1"]);
    let mut bed = bed("a:1", &zone);
    bed.next().await;
    bed.next().await;
    bed.sees([node("other", "10.0.0.2:1")]);
    let from = Instant::now();
    for _ in 0..3 {
        assert_eq!(bed.next().await, address("10.0.0.3:1"));
    }
    assert!(from.elapsed() > 3 * IN_COMPANY.mul_f64(0.7), "slower in company");
    bed.sees([node("other", "10.0.0.2:1"), node("third", "10.0.0.3:1")]);
    bed.quiet(IN_COMPANY * 4).await;
    bed.sees([]);
    let from = Instant::now();
    bed.next().await;
    assert!(from.elapsed() < 2 * ALONE, "alone again");
    bed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_with_very_many_addresses_is_tried_in_parts() {
    let zone = Zone::default();
    let many: Vec<String> = (1..=250).map(|i| format!("10.0.1.{i}:1")).collect();
    zone.set("a:1", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let mut bed = bed("a:1", &zone);
    let mut found = BTreeSet::new();
    while found.len() < many.len() {
        let in_one_round = BTreeSet::from_iter([bed.next().await]);
        found.extend(in_one_round);
    }
    bed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stops_although_nobody_takes_what_it_finds() {
    let zone = Zone::default();
    let many: Vec<String> = (1..=60).map(|i| format!("10.0.1.{i}:1")).collect();
    zone.set("a:1", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let bed = bed("a:1", &zone);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bed.found.len(), bed.found.max_capacity());
    bed.stop().await;
}

#[test]
fn reads_lists() {
    let bound = address("127.0.0.1:7946");
    let list = JoinList::parse(" a:1, ,[fd00::1]:2,", bound).unwrap();
    assert_eq!(list.to_string(), "join list a:1,[fd00::1]:2");
    assert!(JoinList::parse("", bound).unwrap().is_empty());
    assert_eq!(
        JoinList::parse("a:1,b", bound).unwrap_err(),
        JoinError::NotHostPort("b".to_owned())
    );
    let many = "a:1,".repeat(MAX_HOSTS + 1);
    assert_eq!(JoinList::parse(&many, bound).unwrap_err(), JoinError::TooMany(MAX_HOSTS + 1));
}

#[tokio::test(start_paused = true)]
async fn says_after_a_while_that_nobody_lets_it_in() {
    let mut lonely = Lonely::default();
    let mut said = Vec::new();
    for second in 0..100 {
        if lonely.is_due(second != 80) {
            said.push(second);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(said, [10, 70, 91]);
}
