//! Generated messages and the server of `bbb.peer.v1`.
#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]

tonic::include_proto!("bbb.peer.v1");
