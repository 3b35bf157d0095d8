//! Membership of a cluster: who is there, how nodes meet, whom they trust, who owns what.
//!
//! Everything else reads the [`ClusterView`], a watchable value, and nothing of how it comes about.
//!
//! Promises: what is not sealed with a key of the cluster changes nothing; a member that is gone leaves the view
//! within seconds, one that is slow does not; every table and packet has a bound.
//!
//! The room knows nothing of gRPC, of digests, of what members store or run.

mod cluster;
mod discovery;
mod gossip;
#[cfg(any(test, feature = "hostile"))]
pub mod hostile;
mod introduce;
mod keys;
mod member;
mod ring;
mod seal;
mod throttle;
mod tls;
mod view;

pub use cluster::{
    Cluster, Envelope, INTRODUCTION_TIMEOUT, MAX_SEAL_BYTES, OwnProperties, StartError,
};
pub use discovery::{
    BucketList, Discovery, HostPort, JoinError, JoinList, Meeting, Resolve, SystemResolver, Udp,
    UdpTarget, UdpTargetError,
};
pub use introduce::{Introduce, IntroduceError};
pub use keys::{ClusterTag, KeyError, KeyRing, MAX_KEYS, Place, SecretKey};
pub use member::{Load, Member, MemberId, Properties};
pub use ring::OWNERS;
pub use seal::{Opened, Purpose, Refusal, Sealer};
pub use throttle::RefusalLog;
pub use tls::{NODE_ALPN, NODE_NAME, NodeTls, TlsError};
pub use view::ClusterView;
