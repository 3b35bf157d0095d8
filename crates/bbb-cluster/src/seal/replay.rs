//! What was opened before: a sliding window over the counters of each sender (as IPsec's, RFC 4303 appendix A).
//!
//! Promise: nothing is admitted twice, whatever clocks do. Who is dropped from the table leaves its time behind: of
//! a sender that is not known, only what is younger than all that were dropped is admitted. As dropped are those that
//! were silent for the longest time, and only when [`MAX_SENDERS`] have been heard, a timely packet of a cluster of
//! fewer nodes is never refused for it.
//!
//! What it cannot know is what came before this node's start: such a packet may be admitted once more, within the
//! time that packets are valid.

use std::collections::HashMap;

/// Senders that are told apart. At about 170 bytes each, that is less than half a megabyte.
pub(super) const MAX_SENDERS: usize = 2048;

/// How far a packet may come behind a later one of its sender.
pub(super) const WINDOW: u64 = 1024;

const WORDS: usize = WINDOW as usize / 64;

/// The senders heard.
#[derive(Default)]
pub(super) struct Replays {
    senders: HashMap<u64, Sender>,
    /// The youngest time, in milliseconds, of all senders that were dropped.
    dropped_ms: Option<u64>,
}

/// The last packets of a sender.
struct Sender {
    newest_ms: u64,
    /// The largest counter.
    highest: u64,
    /// A bit for each counter of the window, at its place modulo the window.
    seen: [u64; WORDS],
}

impl Replays {
    /// Whether a packet is admitted, which it is once at most.
    pub(super) fn admit(&mut self, boot: u64, counter: u64, sealed_ms: u64) -> bool {
        if let Some(sender) = self.senders.get_mut(&boot) {
            return sender.admit(counter, sealed_ms);
        }
        if self.dropped_ms.is_some_and(|dropped| sealed_ms <= dropped) {
            return false;
        }
        if self.senders.len() >= MAX_SENDERS {
            self.drop_one();
        }
        self.senders.insert(boot, Sender::new(counter, sealed_ms));
        true
    }

    /// Drops who was silent for the longest time.
    fn drop_one(&mut self) {
        let oldest = self.senders.iter().min_by_key(|(_, sender)| sender.newest_ms);
        let Some((boot, newest_ms)) = oldest.map(|(boot, sender)| (*boot, sender.newest_ms)) else {
            return;
        };
        self.senders.remove(&boot);
        self.dropped_ms = self.dropped_ms.max(Some(newest_ms));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.senders.len()
    }
}

impl Sender {
    fn new(counter: u64, sealed_ms: u64) -> Self {
        let mut sender = Self { newest_ms: sealed_ms, highest: counter, seen: [0; WORDS] };
        sender.see(counter);
        sender
    }

    fn admit(&mut self, counter: u64, sealed_ms: u64) -> bool {
        if counter > self.highest {
            // The places between were those of counters that now fall behind the window.
            for passed in (self.highest + 1..=counter).take(WINDOW as usize) {
                let (word, bit) = place(passed);
                self.seen[word] &= !bit;
            }
            self.highest = counter;
        } else if self.highest - counter >= WINDOW {
            return false;
        }
        self.newest_ms = self.newest_ms.max(sealed_ms);
        self.see(counter)
    }

    /// Marks a counter of the window; false if it was marked.
    fn see(&mut self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }
}

/// The word and the bit of a counter.
const fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}
