//! The slow search for damage: every file is read again over time, those in doubt first.

use std::{sync::Arc, time::Duration};

use bbb_lifecycle::Stop;
use tokio::{task, time};

use crate::{Error, Result};

use super::{Disk, blocking, file, index::Key, layout::Kind};

/// How much faster files in doubt are read than those that are only looked after.
const DOUBT_SPEED: u64 = 16;

/// How many slots are passed by before others have their turn on the thread.
const SLOTS_AT_ONCE: u32 = 256;

/// The shortest time from one round to the next.
const ROUND_INTERVAL: Duration = Duration::from_secs(3600);

impl Disk {
    /// Reads everything again, round after round, until it is asked to stop.
    pub(super) async fn scrub(self: &Arc<Self>, stop: &Stop) {
        let bytes_per_second = self.settings.scrub_bytes_per_second;
        if bytes_per_second == 0 {
            return;
        }
        loop {
            for (doubtful_only, speed) in
                [(true, bytes_per_second * DOUBT_SPEED), (false, bytes_per_second)]
            {
                let mut slot = 0;
                while slot < self.index().slots() {
                    if stop.is_requested() {
                        return;
                    }
                    let pause = match self.scrub_slot(slot, doubtful_only).await {
                        Ok(bytes) => Duration::from_secs_f64(bytes as f64 / speed as f64),
                        Err(error) => {
                            tracing::warn!(%error, "cannot read a file again");
                            Duration::from_secs(1)
                        }
                    };
                    slot += 1;
                    if slot % SLOTS_AT_ONCE == 0 {
                        task::yield_now().await;
                    }
                    if !pause.is_zero() && !wait(pause, stop).await {
                        return;
                    }
                }
            }
            if !wait(ROUND_INTERVAL, stop).await {
                return;
            }
        }
    }

    /// Reads what lies in a slot again, which is no use of it. Returns how many bytes that were.
    pub(super) async fn scrub_slot(
        self: &Arc<Self>,
        slot: u32,
        doubtful_only: bool,
    ) -> Result<u64> {
        let Some((key, _, bytes, known)) = self.index().at(slot) else { return Ok(0) };
        if key.kind == Kind::Result || known.checked == doubtful_only {
            return Ok(0);
        }
        if doubtful_only {
            self.look_again(key).await?;
            return Ok(bytes);
        }
        let Some(pin) = self.pin(&key) else { return Ok(0) };
        let disk = Arc::clone(self);
        blocking("reading a file again", move || {
            let _pin = pin;
            disk.scrub_blocking(&key).map_err(|error| {
                Error::unavailable(format!("reading {} again", disk.path(&key).display()), error)
            })
        })
        .await?;
        Ok(bytes)
    }

    /// Reads a file again and drops it if it is damaged.
    pub(super) fn scrub_blocking(&self, key: &Key) -> std::io::Result<()> {
        let Ok(opened) = file::open(&self.path(key)) else {
            // One that somebody has taken away is forgotten: until then it passes for stored.
            return self.check_blocking(key).map(|_| ());
        };
        let metadata = opened.metadata()?;
        if !file::holds(&opened, key.digest)? {
            self.drop_damaged(key, Some(&metadata));
        } else if !self.is_expected(key, &metadata) {
            file::seal(&opened, key.kind, self.mtime)?;
        }
        Ok(())
    }
}

/// Waits; false if it was asked to stop meanwhile.
async fn wait(pause: Duration, stop: &Stop) -> bool {
    tokio::select! {
        () = stop.requested() => false,
        () = time::sleep(pause) => true,
    }
}
