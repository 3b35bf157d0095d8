//! Nodes of one process, each with its disk, its doors and real connections under TLS, over one bucket in memory.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod assets;
mod existence;
mod faults;
mod introductions;
mod link;
mod reads;
mod results;
mod rig;
mod seams;
mod work;
