//! gRPC over HTTP/2 as far as the doors need it: bytes of blobs pass through without being copied.
//!
//! A request's body becomes messages, each a [`Rope`] of the pieces in which it came; a response is made
//! of messages whose last field is somebody else's bytes. Rules are those of gRPC's "PROTOCOL-HTTP2":
//! content type, message prefix, deadlines, trailers. Messages compressed by gRPC itself are refused with
//! UNIMPLEMENTED: blobs have their own compression.
//!
//! The room knows nothing of blobs or of services.

mod body;
mod call;
mod fields;
mod frames;
mod reply;
mod rope;

pub use call::{Request, Requests, Wire};
pub use fields::{Fields, Value, WireError};
pub use frames::{FrameError, Frames};
pub use reply::{Message, Response, digest_field, digest_len, refuse, streaming, unary};
pub use rope::Rope;
