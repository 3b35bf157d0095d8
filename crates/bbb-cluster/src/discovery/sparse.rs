//! Saying a lasting fault once in a while.

use std::time::Duration;

use tokio::time::Instant;

/// How long a fault that lasts is not spoken of again.
const QUIET: Duration = Duration::from_secs(60);

/// Remembers when something was said last.
#[derive(Debug, Default)]
pub(super) struct Sparse(Option<Instant>);

impl Sparse {
    /// Whether it is time to say it (again).
    pub(super) fn due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now.duration_since(last) >= QUIET);
        if due {
            self.0 = Some(now);
        }
        due
    }

    /// It is over: the next time is said at once. Whether it had been said.
    pub(super) fn clear(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn says_it_once_a_minute_and_again_after_it_was_over() {
        let mut sparse = Sparse::default();
        assert!(sparse.due());
        assert!(!sparse.due());
        tokio::time::advance(QUIET).await;
        assert!(sparse.due());
        assert!(sparse.clear());
        assert!(!sparse.clear());
        assert!(sparse.due());
    }
}
