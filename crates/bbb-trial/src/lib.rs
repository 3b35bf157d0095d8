//! What puts a node to trial from outside; nothing here is part of a node.
//!
//! [`proxy`] stands between a node and an S3 server and makes the server as bad as it is told to: slow, refusing, full, gone,
//! lying. [`ledger`] is a client that writes down what a node acknowledged, and holds it, or any other node on the same
//! bucket, to its word. [`front`] gives the clients of many nodes one address. [`stopwatch`] is a client that
//! runs actions of known length, and says what faults cost. The end-to-end suites run them as `s3-proxy`, `ledger`, `front` and
//! `stopwatch`.

pub mod front;
pub mod ledger;
pub mod proxy;
pub mod stopwatch;
