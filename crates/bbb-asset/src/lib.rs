//! Remote assets: what clients have fetched from outside, and what they pushed, by their URIs and qualifiers.
//!
//! Promises: what is given is whole, and in the store; a checksum that does not match keeps nothing, and an error page is
//! never an asset; no address is connected to that was not judged first; what lets a client in at an origin is neither logged
//! nor remembered; whatever comes from outside is bounded in bytes and time.
//!
//! The room knows nothing of gRPC, of other nodes, or of who asks.

mod assets;
mod credentials;
mod directory;
mod download;
mod failure;
mod flight;
mod follow;
mod git;
mod key;
mod origin;
mod place;
mod qualifiers;
mod reach;
mod record;
mod request;
mod spool;
mod sri;
mod unpack;
mod uri;

pub use assets::{Assets, RecordsOf};
pub use credentials::Credentials;
pub use failure::{Failed, Failure, FetchError};
pub use key::Kind;
pub use origin::{Bounds, LookUp, Origins, system_lookup};
pub use place::{Place, PlaceError};
pub use qualifiers::Qualifiers;
pub use reach::{IsOwn, Reach, Refused};
pub use record::{Origin, Record, Validators};
pub use request::{Fetch, Found, Push};
pub use sri::Integrity;
pub use unpack::{Archive, EntryPath, Sink, UnpackError, UnpackLimits, unpack, unpack_tar};
pub use uri::AssetUri;
