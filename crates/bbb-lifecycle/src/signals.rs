use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a node: SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// The signals could not be listened to.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen to signals")]
pub struct SignalsError(#[from] io::Error);

impl Signals {
    /// Takes the signals over from their default actions.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn listen() -> Result<Self, SignalsError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of them and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
