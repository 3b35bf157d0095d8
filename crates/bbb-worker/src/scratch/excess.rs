//! Why an action was ended for what it wrote, as it is told.

use std::fmt;

use crate::room::Seen;

use super::measure::Taken;

/// An action that took more than this part of all there is can be helped by no other worker.
const OWN_SHARE: u64 = 2;

/// An action has taken more than there was room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excess {
    /// What it had taken when it was measured last.
    pub(crate) taken: Taken,
    /// The bytes that all that is stored, staged and written may take; none where nobody counts them.
    pub(crate) limit_bytes: Option<u64>,
    /// The file system, if that was full; else it was the limit that was met.
    pub(crate) full: Option<Seen>,
}

impl Excess {
    /// Whether the action would come to the same end elsewhere. If not it was the worker that had too little for it, beside all else.
    pub(crate) fn is_its_own(&self) -> bool {
        let is_most = |part: u64, all: Option<u64>| all.is_some_and(|all| part > all / OWN_SHARE);
        let all_files = self.full.and_then(|seen| seen.all_files);
        is_most(self.taken.bytes, self.limit_bytes) || is_most(self.taken.files, all_files)
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Taken { bytes, files, hides } = self.taken;
        let least = if hides { "at least " } else { "" };
        write!(f, "the action wrote {least}{} in {files} files, ", Bytes(bytes))?;
        match self.full {
            Some(seen) => {
                write!(f, "and the worker's disk was full: {} were free", Bytes(seen.free_bytes))?;
                if seen.all_files.is_some() {
                    write!(f, ", and {} files", seen.free_files)?;
                }
            }
            None => f.write_str("and there was no more room on the worker")?,
        }
        match self.limit_bytes {
            Some(limit) => write!(f, " (its --cache_size is {})", Bytes(limit)),
            None => Ok(()),
        }
    }
}

/// A number of bytes for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => write!(f, "{:.1} {name}", self.0 as f64 / unit as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_most_of_all_is_to_blame_itself() {
        let taken = |bytes, files| Taken { bytes, files, hides: false };
        let full = Seen {
            all_bytes: 100,
            free_bytes: 1,
            used_bytes: 99,
            all_files: Some(1000),
            free_files: 7,
        };
        let excess = Excess { taken: taken(60, 9), limit_bytes: Some(100), full: None };
        assert!(excess.is_its_own());
        assert!(!Excess { taken: taken(50, 9), ..excess }.is_its_own());
        assert!(!Excess { taken: taken(50, 501), ..excess }.is_its_own(), "files are no matter");
        let excess = Excess { taken: taken(50, 501), full: Some(full), ..excess };
        assert!(excess.is_its_own());
        assert!(!Excess { taken: taken(90, 9), limit_bytes: None, ..excess }.is_its_own());
    }

    #[test]
    fn it_names_what_was_measured_and_the_limit() {
        let taken = Taken { bytes: 1536 << 20, files: 12, hides: false };
        let limit_bytes = Some(2 << 30);
        let excess = Excess { taken, limit_bytes, full: None };
        assert_eq!(
            excess.to_string(),
            "the action wrote 1.5 GiB in 12 files, and there was no more room on the worker (its --cache_size is 2.0 GiB)"
        );
        let full = Seen {
            all_bytes: 100 << 20,
            free_bytes: 1000,
            used_bytes: 99 << 20,
            all_files: Some(1000),
            free_files: 7,
        };
        let taken = Taken { hides: true, ..taken };
        let excess = Excess { taken, limit_bytes: None, full: Some(full) };
        assert_eq!(
            excess.to_string(),
            "the action wrote at least 1.5 GiB in 12 files, and the worker's disk was full: 1000 bytes were free, and 7 files"
        );
    }
}
