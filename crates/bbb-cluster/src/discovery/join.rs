//! `--join`: a list of hosts that may be members.

use std::{collections::BTreeSet, fmt, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use rand::seq::IteratorRandom as _;
use tokio::time::Instant;

use super::{
    Discovery, Meeting,
    resolve::{HostPort, Resolve, SystemResolver, canonical},
    sparse::Sparse,
};

/// How long a node that is alone waits before it goes through the list again.
const ALONE: Duration = Duration::from_secs(2);
/// How long a node in company waits: it looks for halves of the cluster that were split off.
const IN_COMPANY: Duration = Duration::from_secs(15);
/// How long a node may be alone although there are others on its list before it says so.
const LONELY_AFTER: Duration = Duration::from_secs(10);
/// How many hosts a list may have.
const MAX_HOSTS: usize = 256;
/// How many addresses of one name are tried in one round; of more, others each time.
const MAX_ADDRESSES: usize = 64;
/// How many names are resolved at a time.
const MAX_RESOLVING: usize = 8;

/// What is wrong with a list of hosts.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JoinError {
    /// An entry that cannot be read.
    #[error("'{0}' is not host:port (IPv6 as [address]:port)")]
    NotHostPort(String),
    /// More entries than a list may have.
    #[error("{0} hosts to join: at most {MAX_HOSTS} are taken, and one that is a member suffices")]
    TooMany(usize),
}

/// Hosts that may be members, by name or address. Names are resolved each time, to all their addresses.
pub struct JoinList {
    hosts: Vec<HostPort>,
    bound: SocketAddr,
    resolver: Arc<dyn Resolve>,
}

impl JoinList {
    /// Reads a list as `--join` has it: `host:port` with commas between. `bound` is where this node's gossip
    /// listens, which may be on the list as well as the address that it advertises.
    ///
    /// # Errors
    /// If the list cannot be read or is too long.
    pub fn parse(list: &str, bound: SocketAddr) -> Result<Self, JoinError> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Self::new(entries.map(str::parse).collect::<Result<_, _>>()?, bound)
    }

    /// A list of hosts; see [`JoinList::parse`].
    ///
    /// # Errors
    /// If it is too long.
    pub fn new(hosts: Vec<HostPort>, bound: SocketAddr) -> Result<Self, JoinError> {
        Self::check(&hosts)?;
        let resolver = Arc::new(SystemResolver::default());
        Ok(Self { hosts, bound, resolver })
    }

    /// Whether so many hosts can be a list.
    ///
    /// # Errors
    /// If they are too many.
    pub const fn check(hosts: &[HostPort]) -> Result<(), JoinError> {
        match hosts.len() > MAX_HOSTS {
            true => Err(JoinError::TooMany(hosts.len())),
            false => Ok(()),
        }
    }

    /// The same list with another resolver than the system's.
    #[must_use]
    pub fn with_resolver(self, resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, ..self }
    }

    /// Whether the list is empty: then there is nothing to run.
    pub const fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Offers every address on the list that is neither a member's nor this node's, and tells whether there is one.
    /// `faults` has a place for each host.
    async fn go_through(&self, meeting: &Meeting, faults: &mut [Sparse]) -> bool {
        let lookups: Vec<_> =
            self.hosts.iter().zip(faults).map(|(host, fault)| self.look_up(host, fault)).collect();
        let mut lookups = stream::iter(lookups).buffer_unordered(MAX_RESOLVING);
        let mut offered = BTreeSet::new();
        while let Some(addresses) = lookups.next().await {
            let tried =
                addresses.into_iter().map(canonical).sample(&mut rand::rng(), MAX_ADDRESSES);
            for address in tried {
                if self.is_other(address, meeting) && offered.insert(address) {
                    meeting.offer(address).await;
                }
            }
        }
        !offered.is_empty()
    }

    /// The addresses of `host`, or none and a word about it once in a while.
    async fn look_up(&self, host: &HostPort, fault: &mut Sparse) -> Vec<SocketAddr> {
        match self.resolver.resolve(host).await {
            Ok(addresses) => {
                if fault.clear() {
                    tracing::info!(%host, count = addresses.len(), "a host to join has addresses again");
                }
                addresses
            }
            Err(error) => {
                if fault.due() {
                    tracing::warn!(%host, %error, "cannot resolve a host to join, will go on trying");
                }
                Vec::new()
            }
        }
    }

    /// Whether someone else may listen at the address whom this node does not know yet.
    fn is_other(&self, address: SocketAddr, meeting: &Meeting) -> bool {
        let view = meeting.view();
        let is_member = view.members().iter().any(|member| canonical(member.id.gossip) == address);
        !is_member && address != canonical(self.bound) && address.port() != 0
    }
}

#[async_trait]
impl Discovery for JoinList {
    async fn run(&self, mut meeting: Meeting) {
        let mut faults: Vec<Sparse> = self.hosts.iter().map(|_| Sparse::default()).collect();
        let mut lonely = Lonely::default();
        let stop = meeting.stop.clone();
        loop {
            let are_others = tokio::select! {
                are_others = self.go_through(&meeting, &mut faults) => are_others,
                () = stop.requested() => return,
            };
            if lonely.is_due(are_others && meeting.view().is_alone()) {
                let me = meeting.me().gossip;
                tracing::warn!(
                    "alone: none of the {self} has let this node in. Do they run? Is UDP let through to them, and from them \
                     to {me} (--advertise_host)? Have all the same --cluster_name and --secret_key? Their logs name a key \
                     that is not theirs"
                );
            }
            if meeting.rest(ALONE, IN_COMPANY).await.is_break() {
                return;
            }
        }
    }
}

/// Since when a node has been alone, and when it said so last.
#[derive(Debug, Default)]
struct Lonely {
    since: Option<Instant>,
    said: Sparse,
}

impl Lonely {
    /// Whether it is time to say (again) that the node is alone.
    fn is_due(&mut self, is_alone: bool) -> bool {
        if !is_alone {
            *self = Self::default();
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        since.elapsed() >= LONELY_AFTER && self.said.due()
    }
}

impl fmt::Display for JoinList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("join list ")?;
        for (i, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for JoinList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinList")
            .field("hosts", &self.hosts)
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
