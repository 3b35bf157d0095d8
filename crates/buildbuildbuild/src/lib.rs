//! What the `buildbuildbuild` binary is made of, so that tests can use it within their own process.

mod assets;
mod cluster_page;
mod doors;
pub mod flags;
pub mod greeting;
mod groups;
mod logs;
mod membership;
mod memory;
mod metrics;
pub mod node;
mod open_files;
mod work;
