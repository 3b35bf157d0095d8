//! Nodes speaking to each other: connections, introductions, the cache and the work that they share.
//!
//! Four things meet here. [`Connections`] are the ways to other nodes, each with a breaker that steps over a node which does
//! not answer. [`Introductions`] tell a new member who this node is and find out whether both share a bucket. The [`PeerTier`]
//! stands between disk and bucket: each digest has an owner, and whoever wants a blob asks its owner first. And [`work`] is
//! what nodes share of actions: one scheduler for all, wherever they are accepted and run.
//!
//! Promises: no wait for another node is without a bound, and every bound has a name; a node that is slow or gone is stepped
//! over, straight to the bucket; a fault of a peer is never a miss; what was acknowledged is in the bucket; every table, queue
//! and batch is bounded.
//!
//! The room knows nothing of gossip, of how members meet, nor of the doors: it takes a node's services to be there.

pub mod assets;
mod bounds;
mod breaker;
mod call;
mod connections;
mod connector;
mod hints;
mod introduce;
mod logs;
mod proto;
mod service;
mod stats;
mod tell;
mod tier;
mod wire;
pub mod work;

pub use bounds::Bounds;
pub use call::CallError;
pub use connections::{Connections, Peer};
pub use introduce::{Introductions, PROTOCOL};
pub use logs::SharedLogs;
pub use proto::node_server::NodeServer;
pub use service::NodeService;
pub use stats::PeerStats;
pub use tier::{PeerTier, PeerTierSettings};
