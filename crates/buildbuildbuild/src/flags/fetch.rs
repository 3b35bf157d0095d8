//! `--fetch_allow`, `--fetch_only`: what the Remote Asset API may fetch from.

use bbb_asset::Place;

use super::{raw::Flags, refusal::Refusal};

/// What may be fetched from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchFlags {
    /// What may be although it is not public, or part of the cluster.
    pub allow: Vec<Place>,
    /// All else that may be; empty for every public host.
    pub only: Vec<Place>,
}

impl FetchFlags {
    /// What the flags say.
    ///
    /// # Errors
    /// If a value is no host, host and port, address or network.
    pub(super) fn parse(flags: &Flags) -> Result<Self, Refusal> {
        Ok(Self {
            allow: places("fetch_allow", &flags.fetch_allow)?,
            only: places("fetch_only", &flags.fetch_only)?,
        })
    }
}

fn places(flag: &'static str, given: &[String]) -> Result<Vec<Place>, Refusal> {
    let place = |text: &String| {
        text.parse::<Place>().map_err(|error| Refusal::value(flag, text, error.to_string()))
    };
    given.iter().map(place).collect()
}
