//! What happened, in order: the last of it for people, all of it as a hash.

use std::{collections::VecDeque, fmt, fmt::Write as _, time::Duration};

/// How many events are kept to be shown.
const KEPT: usize = 400;

/// The events of one simulation.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: Fnv,
    last: VecDeque<String>,
    count: u64,
    prints: bool,
}

impl Trace {
    /// No events yet. Those that come are printed too, if that is wanted.
    pub(crate) fn new(prints: bool) -> Self {
        Self { hash: Fnv(FNV_BASIS), last: VecDeque::new(), count: 0, prints }
    }

    pub(crate) fn note(&mut self, at: Duration, event: fmt::Arguments<'_>) {
        let line = format!("{:>10.3} {event}", at.as_secs_f64());
        // Neither can fail.
        let _ = self.hash.write_str(&line);
        let _ = self.hash.write_char('\n');
        if self.prints {
            println!("{line}");
        }
        self.count += 1;
        self.last.push_back(line);
        if self.last.len() > KEPT {
            self.last.pop_front();
        }
    }

    /// Stands for all events in their order.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.0
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}

/// FNV-1a: the same in each process, which hashers of the standard library do not promise.
#[derive(Debug)]
struct Fnv(u64);

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        Ok(())
    }
}
