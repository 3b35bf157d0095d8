//! What faults cost: pure arithmetic over notes.

use std::{fmt, str::FromStr};

use anyhow::Context as _;

use super::Note;

/// A moment at which something was broken; a line `MILLISECONDS WHAT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// What.
    pub what: String,
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let (at, what) = line.split_once(' ').context("a fault is MILLISECONDS WHAT")?;
        Ok(Self { at: at.parse()?, what: what.to_owned() })
    }
}

/// What one fault cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cost {
    /// What it was.
    pub what: String,
    /// Actions under way at that moment.
    pub met: usize,
    /// Those among them that had to begin again, or had not begun.
    pub begun_after: usize,
    /// By how much the action that it delayed most was late, beyond the work that was lost.
    pub delay_ms: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, met, begun_after, delay_ms } = self;
        write!(f, "delay_ms={delay_ms} met={met} begun_after={begun_after} fault={what}")
    }
}

/// What each of the faults cost, which are in the order of their moments. An action of `length_ms` could have ended that long after it
/// was submitted, or, if its run was lost, that long after the fault that lost it; whatever it took more is put down to the last
/// fault before its end.
pub fn costs(notes: &[Note], faults: &[Fault], length_ms: u64) -> Vec<Cost> {
    let mut costs: Vec<_> = faults
        .iter()
        .map(|fault| Cost { what: fault.what.clone(), met: 0, begun_after: 0, delay_ms: 0 })
        .collect();
    for note in notes {
        for (cost, fault) in costs.iter_mut().zip(faults) {
            if (note.submitted..note.ended).contains(&fault.at) {
                cost.met += 1;
                cost.begun_after += usize::from(note.started >= fault.at);
            }
        }
        let before = |moment: u64| faults.iter().rposition(|fault| fault.at <= moment);
        let lost = before(note.started).map_or(0, |last| faults[last].at);
        let delay = note.ended.saturating_sub(note.submitted.max(lost) + length_ms);
        if let Some(last) = before(note.ended) {
            costs[last].delay_ms = costs[last].delay_ms.max(delay);
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(submitted: u64, started: u64, ended: u64) -> Note {
        Note { submitted, started, ended, ..Note::default() }
    }

    fn fault(at: u64) -> Fault {
        format!("{at} of {at}").parse().unwrap()
    }

    #[test]
    fn a_run_that_goes_on_is_measured_from_its_begin() {
        let costs = costs(&[note(0, 100, 2300)], &[fault(1000)], 2000);
        assert_eq!(costs[0].to_string(), "delay_ms=300 met=1 begun_after=0 fault=of 1000");
    }

    #[test]
    fn a_run_that_was_lost_is_measured_from_its_loss() {
        let costs = costs(&[note(0, 2500, 4600)], &[fault(1500), fault(9000)], 2000);
        assert_eq!((costs[0].met, costs[0].begun_after, costs[0].delay_ms), (1, 1, 1100));
        assert_eq!((costs[1].met, costs[1].delay_ms), (0, 0));
    }

    #[test]
    fn what_comes_after_a_fault_may_be_late_by_it_too() {
        let costs = costs(&[note(1600, 6000, 8100), note(0, 50, 1000)], &[fault(1500)], 2000);
        assert_eq!((costs[0].met, costs[0].delay_ms), (0, 4500));
    }

    #[test]
    fn an_end_between_two_faults_is_put_down_to_the_first() {
        let faults = [fault(1500), fault(4000)];
        let costs = costs(&[note(1000, 1600, 3700)], &faults, 2000);
        assert_eq!((costs[0].delay_ms, costs[1].delay_ms), (200, 0));
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let mut note = note(1, 2, 3);
        note.worker = "one".to_owned();
        note.failure = Some("Unavailable:_gone".to_owned());
        assert_eq!(note.to_string().parse::<Note>().unwrap(), note);
    }
}
