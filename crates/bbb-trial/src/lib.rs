//! What puts a node to trial from outside; nothing here is part of a node.
//!
//! [`proxy`] stands between a node and an S3 server and makes the server as bad as it is told to: slow, refusing, full, gone,
//! lying. [`ledger`] is a client that writes down what a node acknowledged, and holds it, or any other node on the same
//! bucket, to its word. [`front`] gives the clients of many nodes one address. The end-to-end suites run
//! them as `s3-proxy`, `ledger` and `front`.

pub mod front;
pub mod ledger;
pub mod proxy;
