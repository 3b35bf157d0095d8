//! How many files the process may have open: connections, and blobs that are read and written.
//!
//! The usual limit, 1,024, is there for programs that use `select`; a thousand idle connections would use it up, and no blob
//! could be read any more. What may be had without asking anybody is taken, as Go's runtime does, too.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many a node needs to be well: all connections that its port takes, and some thousand for what it reads and writes.
const WANTED: u64 = 8_192;

/// Raises the limit to what the system lets this process have. Processes that were started before keep what they had.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return warn_if_few(current);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => warn_if_few(maximum),
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays");
            warn_if_few(current);
        }
    }
}

fn warn_if_few(limit: Option<u64>) {
    if let Some(limit) = limit.filter(|limit| *limit < WANTED) {
        tracing::warn!(
            limit,
            "few files may be open at once: connections and blobs share them, so raise it to {WANTED} (ulimit -Hn, LimitNOFILE=)"
        );
    }
}
