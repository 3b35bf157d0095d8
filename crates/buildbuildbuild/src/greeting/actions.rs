//! How actions run on this node, in four lines: behind which walls and as whom, with which limits, how they get their inputs,
//! where their folders are.
//!
//! Promises: what is not as good as it could be comes with the reason.

use std::path::PathBuf;

use bbb_sandbox::{Enforced, Enforcement, Mode, Probe};
use bbb_worker::Ladder;

use crate::flags::{KeepExecRoot, SandboxChoice, Settings};

/// What a node found out about the machine when it made itself ready for actions.
#[derive(Clone, Debug)]
pub struct Workplace {
    /// What the sandbox found.
    pub probe: Probe,
    /// How inputs are staged.
    pub ladder: Ladder,
    /// Where actions' folders are.
    pub folder: PathBuf,
}

impl Workplace {
    /// To be told, in order.
    pub(super) fn lines(&self, settings: &Settings) -> [String; 4] {
        [
            self.walls(settings),
            self.limits(settings),
            self.ladder.to_string(),
            self.folders(settings),
        ]
    }

    fn walls(&self, settings: &Settings) -> String {
        let Probe { mode, actor, notes, .. } = &self.probe;
        let notes = notes.join("; ");
        match (mode, settings.sandbox) {
            (Mode::None, SandboxChoice::None) => format!(
                "actions run without a sandbox (--sandbox=none), as {actor}, and reach all that the node reaches"
            ),
            (Mode::None, _) => format!(
                "actions run without a sandbox, as {actor}, and reach all that the node reaches; {notes}"
            ),
            _ => {
                let but = if notes.is_empty() { "" } else { "; " };
                format!(
                    "actions run in namespaces of their own, behind a filter of system calls, as {actor}{but}{notes}"
                )
            }
        }
    }

    fn limits(&self, settings: &Settings) -> String {
        let Enforcement { memory, processes, cpu } = self.probe.limits;
        let all = [("memory", memory), ("processes", processes), ("processors", cpu)];
        let told = [
            (Enforced::Action, "limited per action"),
            (Enforced::Process, "limited per process"),
            (Enforced::Not, "not limited"),
        ];
        let told = told.into_iter().filter_map(|(kept, how)| {
            let names = all.iter().filter(|(_, each)| *each == kept).map(|(name, _)| *name);
            let names: Vec<_> = names.collect();
            (!names.is_empty()).then(|| format!("{} {how}", listed(&names)))
        });
        let told = told.collect::<Vec<_>>().join(", ");
        let groups = match self.probe.groups {
            Some(version) => format!("cgroup v{version}"),
            None => "no control groups can be made here".to_owned(),
        };
        let network = match (self.probe.mode, settings.sandbox_network) {
            (Mode::None, _) => "the machine's network is there for all",
            (_, true) => "the machine's network is there for all (--sandbox_network)",
            (_, false) => "no network but for those that ask (network=on)",
        };
        format!("{told} ({groups}); {network}")
    }

    fn folders(&self, settings: &Settings) -> String {
        let folder = self.folder.display();
        let kept = match settings.keep_exec_root {
            KeepExecRoot::Never => String::new(),
            KeepExecRoot::Failed => format!("; those of failed ones are kept in {folder}/kept"),
            KeepExecRoot::All => format!("; all are kept in {folder}/kept"),
        };
        let shown = match settings.sandbox_folders.as_slice() {
            [] => String::new(),
            folders => {
                let folders: Vec<_> =
                    folders.iter().map(|path| path.display().to_string()).collect();
                let folders: Vec<_> = folders.iter().map(String::as_str).collect();
                format!("; they see {} too", listed(&folders))
            }
        };
        format!("actions work in {folder}{kept}{shown}")
    }
}

/// Names as a sentence has them.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_as_people_do() {
        assert_eq!(listed(&["a"]), "a");
        assert_eq!(listed(&["a", "b"]), "a and b");
        assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
    }
}
