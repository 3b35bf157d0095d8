//! The command line: raw [`Flags`], and the [`Settings`] that come of them.
//!
//! Promises: whatever is wrong with the command line is found before anything is bound or written,
//! and said in one line that names the flag, its value and what would be right ([`Refusal`]). Knows
//! nothing of the parts that the settings are for.

mod argv;
mod bucket;
mod cluster;
mod defaults;
mod fetch;
mod folders;
mod hosts;
mod raw;
mod refusal;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod units;
mod values;

pub use argv::{Invocation, parse};
pub use bucket::BucketFlags;
pub use cluster::ClusterFlags;
pub use defaults::{Machine, remember_cache_size};
pub use fetch::FetchFlags;
pub use raw::{Flags, Tool};
pub use refusal::Refusal;
pub use settings::{KeepExecRoot, LogFormat, RequiredHeader, SandboxChoice, Settings};
pub use tls::TlsFlags;
pub use units::{format_bytes, format_duration};
