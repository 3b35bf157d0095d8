//! Errors as lines of the log.

use std::{error::Error, iter};

/// An error and what it comes of, in one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let all = iter::successors(Some(error), |&error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
