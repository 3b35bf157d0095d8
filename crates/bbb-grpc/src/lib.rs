//! The public gRPC services, one file each.
//!
//! This is the door: it reads a request once into values that cannot be wrong, hands them to the rooms
//! below, and turns what comes back into messages. RPC messages go no lower than here.
//!
//! Promises: whatever a client sends, memory stays within a [`Budget`]; what is malformed is refused
//! with the field that is wrong; a fault of a store is UNAVAILABLE and never NOT_FOUND.
//!
//! [`Doors`] are what clients, or other nodes, find; a [`Port`] tells the two apart by how their connections begin.
//!
//! The room knows nothing of where blobs lie, of buckets, of how actions are run, or of how nodes prove themselves.

pub mod action_cache;
pub mod asset;
pub mod bytestream;
pub mod capabilities;
pub mod cas;
mod causes;
mod door;
mod doors;
pub mod execution;
mod inline;
pub mod limits;
pub mod logstream;
pub mod operations;
pub mod port;
pub mod reflection;
mod request_metadata;
mod required_header;
pub mod status;
pub mod tls;
pub mod wire;

pub use door::Door;
pub use doors::{Budgets, Doors, Settings};
pub use limits::{Budget, Reservation};
pub use port::Port;
pub use required_header::{RequiredHeader, RequiredHeaderError};
pub use tls::{ClientTls, TlsError, TlsFiles};
