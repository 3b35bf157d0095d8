//! When to measure what actions write, and whom to end. Pure: no clock, no file system.

use std::time::{Duration, Instant};

use crate::room::{Lack, Seen};

use super::{
    Number,
    measure::{BLOCK_BYTES, Taken},
};

/// An action that ends sooner is not measured, unless the file system fills up meanwhile.
pub(crate) const YOUNG: Duration = Duration::from_secs(1);

/// How long between two measurements, at the least.
const REST: Duration = Duration::from_secs(1);

/// After a measurement comes this many times the rest that it took: a twentieth of a core at the most...
const REST_FACTOR: u32 = 20;

/// ...or a fifth, while the file system fills up.
const URGENT_REST_FACTOR: u32 = 4;

/// It fills up when so large a part of what is free, or of all that may be taken, was taken since the last measurement.
const URGENT_SHARE: u64 = 8;

/// A file system that looks as it did is not measured again for so long. Not all of them tell at once what is written.
const UNCHANGED: Duration = Duration::from_secs(30);

/// What one look at the file system asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// To measure those that have run for so long.
    Measure(Duration),
}

/// When measurements were, and what they cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// The last look.
    looked: Option<Seen>,
    /// The look that it is compared with, and whether it came with a measurement.
    base: Option<(Seen, bool)>,
    /// When the last measurement ended, and how long it took.
    measured: Option<(Instant, Duration)>,
}

impl Pace {
    /// Takes a look in. Gives what was written since the one before.
    pub(crate) fn look(&mut self, seen: Seen) -> u64 {
        self.base.get_or_insert((seen, false));
        let before = self.looked.replace(seen);
        before.map_or(0, |before| seen.used_bytes.saturating_sub(before.used_bytes))
    }

    /// What the last look asks for, when the oldest of all actions has run for `oldest`, all may take `limit_bytes`, and the file
    /// system lacks this much.
    pub(crate) fn due(&self, now: Instant, oldest: Duration, limit_bytes: u64, lack: Lack) -> Due {
        let (Some(seen), Some((base, is_measured))) = (self.looked, self.base) else {
            return Due::Nothing;
        };
        let (since, took) = match self.measured {
            Some((ended, took)) => (now.saturating_duration_since(ended), took),
            None => (Duration::MAX, Duration::ZERO),
        };
        let has_changed = !is_measured
            || (seen.used_bytes, seen.free_files) != (base.used_bytes, base.free_files);
        let is_much = |new: u64, free: u64| new > free / URGENT_SHARE;
        let written = seen.used_bytes.saturating_sub(base.used_bytes);
        let made = base.free_files.saturating_sub(seen.free_files);
        let fills_up = !lack.is_nothing()
            || is_much(written, seen.free_bytes.min(limit_bytes))
            || is_much(made, seen.free_files.min(limit_bytes / BLOCK_BYTES));
        if has_changed && fills_up && since >= took * URGENT_REST_FACTOR {
            return Due::Measure(Duration::ZERO);
        }
        let is_rested = since >= REST.max(took * REST_FACTOR);
        match oldest >= YOUNG && is_rested && (has_changed || since >= UNCHANGED) {
            true => Due::Measure(YOUNG),
            false => Due::Nothing,
        }
    }

    /// A measurement that was asked for by the last look has ended.
    pub(crate) fn measured(&mut self, now: Instant, took: Duration) {
        self.base = self.looked.map(|seen| (seen, true));
        self.measured = Some((now, took));
    }

    /// Nobody writes: whoever comes next has not written what is there by then.
    pub(crate) fn rest(&mut self) {
        (self.looked, self.base) = (None, None);
    }
}

/// Of all that was measured, who is to end so that a file system gets back what it lacks: the one that has most of it. None if even
/// all together have less: then it is not they who filled it.
pub(crate) fn to_blame(measured: &[(Number, Taken)], lack: Lack) -> Option<Number> {
    let all = |of: fn(&Taken) -> u64| measured.iter().map(|(_, taken)| of(taken)).sum::<u64>();
    let most = |of: fn(&Taken) -> u64| {
        measured.iter().max_by_key(|(_, taken)| of(taken)).map(|(number, _)| *number)
    };
    if lack.bytes > 0 && all(|taken| taken.bytes) >= lack.bytes {
        return most(|taken| taken.bytes);
    }
    if lack.files > 0 && all(|taken| taken.files) >= lack.files {
        return most(|taken| taken.files);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::ROOM_BYTES;

    const GIB: u64 = 1 << 30;
    const SECOND: Duration = Duration::from_secs(1);

    fn seen(used_bytes: u64) -> Seen {
        let free_bytes = 100 * GIB - used_bytes;
        let (all_files, free_files) = (None, 0);
        Seen { all_bytes: 100 * GIB, free_bytes, used_bytes, all_files, free_files }
    }

    fn due(pace: &mut Pace, now: Instant, oldest: Duration, seen: Seen) -> Due {
        let written = pace.look(seen);
        pace.due(now, oldest, 1000 * GIB, seen.lacks(written))
    }

    #[test]
    fn short_actions_are_not_measured() {
        let mut pace = Pace::default();
        let now = Instant::now();
        assert_eq!(due(&mut pace, now, SECOND / 2, seen(GIB)), Due::Nothing);
        assert_eq!(due(&mut pace, now, SECOND, seen(GIB)), Due::Measure(YOUNG));
    }

    #[test]
    fn measuring_takes_a_small_part_of_a_core() {
        let mut pace = Pace::default();
        let now = Instant::now();
        pace.look(seen(0));
        pace.measured(now, SECOND);
        assert_eq!(due(&mut pace, now + 19 * SECOND, SECOND, seen(GIB)), Due::Nothing);
        assert_eq!(due(&mut pace, now + 20 * SECOND, SECOND, seen(GIB)), Due::Measure(YOUNG));
        pace.measured(now, Duration::ZERO);
        assert_eq!(due(&mut pace, now + SECOND / 2, SECOND, seen(2 * GIB)), Due::Nothing);
    }

    #[test]
    fn what_has_not_grown_is_not_measured() {
        let mut pace = Pace::default();
        let now = Instant::now();
        pace.look(seen(GIB));
        pace.measured(now, Duration::ZERO);
        assert_eq!(due(&mut pace, now + 29 * SECOND, 50 * SECOND, seen(GIB)), Due::Nothing);
        let later = now + 30 * SECOND;
        assert_eq!(due(&mut pace, later, 50 * SECOND, seen(GIB)), Due::Measure(YOUNG));
    }

    #[test]
    fn a_file_system_that_fills_up_is_measured_sooner_and_with_the_young() {
        let mut pace = Pace::default();
        let now = Instant::now();
        pace.look(seen(GIB));
        pace.measured(now, SECOND);
        let filling = seen(20 * GIB);
        assert_eq!(due(&mut pace, now + 3 * SECOND, SECOND / 9, filling), Due::Nothing);
        let at_once = Due::Measure(Duration::ZERO);
        assert_eq!(due(&mut pace, now + 4 * SECOND, SECOND / 9, filling), at_once);
        // One that is full and stays as it is is nobody's whom measuring would find.
        let full = seen(100 * GIB);
        pace.look(full);
        pace.measured(now, Duration::ZERO);
        assert_eq!(due(&mut pace, now + 9 * SECOND, SECOND / 9, full), Due::Nothing);
    }

    #[test]
    fn files_fill_it_up_too() {
        let mut pace = Pace::default();
        let now = Instant::now();
        let with = |free_files| Seen { all_files: Some(9000), free_files, ..seen(GIB) };
        assert_eq!(due(&mut pace, now, SECOND / 9, with(9000)), Due::Nothing);
        assert_eq!(due(&mut pace, now, SECOND / 9, with(8000)), Due::Nothing);
        assert_eq!(due(&mut pace, now, SECOND / 9, with(7999)), Due::Measure(Duration::ZERO));
    }

    #[test]
    fn what_was_written_before_anyone_came_is_nobodys() {
        let mut pace = Pace::default();
        let now = Instant::now();
        pace.look(seen(GIB));
        pace.measured(now, Duration::ZERO);
        pace.rest();
        assert_eq!(due(&mut pace, now + 9 * SECOND, SECOND / 9, seen(50 * GIB)), Due::Nothing);
        // Though it may have written before the first look.
        let measure = Due::Measure(YOUNG);
        assert_eq!(due(&mut pace, now + 10 * SECOND, SECOND, seen(50 * GIB)), measure);
    }

    #[test]
    fn the_reserve_grows_with_how_fast_is_written() {
        let mut pace = Pace::default();
        assert_eq!(pace.look(seen(90 * GIB)), 0);
        let later = seen(95 * GIB);
        let written = pace.look(later);
        assert_eq!(later.lacks(2 * written), Lack { bytes: ROOM_BYTES + 5 * GIB, files: 0 });
    }

    #[test]
    fn who_has_most_is_to_blame_and_nobody_if_it_would_not_help() {
        let taken = |bytes, files| Taken { bytes, files, hides: false };
        let measured = [(1, taken(50, 9)), (2, taken(70, 3)), (3, taken(60, 5))];
        let lack = |bytes, files| Lack { bytes, files };
        assert_eq!(to_blame(&measured, lack(180, 0)), Some(2));
        assert_eq!(to_blame(&measured, lack(181, 0)), None);
        assert_eq!(to_blame(&measured, lack(0, 17)), Some(1));
        assert_eq!(to_blame(&measured, lack(500, 17)), Some(1));
        assert_eq!(to_blame(&measured, lack(0, 0)), None);
        assert_eq!(to_blame(&[], lack(1, 1)), None);
    }
}
