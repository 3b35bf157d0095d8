use std::time::{Instant, SystemTime};

/// Times of one action: never going back, whatever the clock of the machine does meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    time: SystemTime,
    instant: Instant,
}

impl Clock {
    /// Begins with the machine's time.
    pub(crate) fn start() -> Self {
        Self { time: SystemTime::now(), instant: Instant::now() }
    }

    /// When it was started.
    pub(crate) fn started(&self) -> SystemTime {
        self.time
    }

    /// The time now.
    pub(crate) fn now(&self) -> SystemTime {
        self.time + self.instant.elapsed()
    }
}

/// When an action came to which stage. `ExecutedActionMetadata` has a comment on each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) fetched: SystemTime,
    pub(crate) ran: SystemTime,
}
