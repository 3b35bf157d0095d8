//! Flags whose feature comes with a later release: what is said of them when they are given.

use super::raw::Flags;

const ASSETS: &str = "the Remote Asset API comes";

/// A line for each flag that is given and does nothing yet.
pub(crate) fn warnings(flags: &Flags) -> Vec<String> {
    let idle = [
        ("fetch_allow", !flags.fetch_allow.is_empty(), ASSETS),
        ("fetch_only", !flags.fetch_only.is_empty(), ASSETS),
    ];
    let given = idle.into_iter().filter(|(_, given, _)| *given);
    given
        .map(|(flag, _, what)| format!("--{flag} does nothing yet: {what} with a later release"))
        .collect()
}
