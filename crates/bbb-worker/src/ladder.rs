//! The ways in which inputs get into an exec root, best first, and which of them there are: tried once, at start.
//!
//! - *Overlays* show trees of hard links that many actions share, and cost the same for any tree. No action reaches the
//!   files that the links lead to.
//! - *Reflinks* are files of the action's own in a plain folder that share their blocks with the store's until somebody writes.
//! - *Hard links* in a plain folder lead an action to the store's own files. So they are used only where the action is not
//!   their owner, and a trial action could neither write to such a file nor change its mode.
//! - *Copies* work everywhere and cost what the tree weighs.
//!
//! Promises: what staging does is decided by this value, by the tree and by what the action asks for, and by nothing that is
//! found out on the way; but that a store on another file system than the worker's folder falls to copies.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::Path,
};

use bbb_reapi::Properties;
use bbb_sandbox::{Actor, Probe};
use bbb_scheduler::steering::{PLAIN, STAGING};
use bbb_storage::Totals;

/// How many bytes a tree may have in all to be copied instead of standing below an overlay.
const COPIED_BYTES: u64 = 64 << 10;

/// A way in which inputs get into an exec root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// A plain folder of copies.
    Copies,
    /// A plain folder of hard links to the store's files.
    HardLinks,
    /// A plain folder of copies that share their blocks with the store's files.
    Reflinks,
    /// An overlay above trees of hard links.
    Overlays,
}

/// The rungs that there are, and why there are no better ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    best: Rung,
    /// Each that is better than the best there is, and why it is not there.
    refused: Vec<(Rung, String)>,
    means: Means,
}

/// By which means files get their places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Means {
    /// Whom files belong to that are linked to, by number; none where that is the only user there is.
    pub(crate) owner: Option<u32>,
    /// Whether copies share blocks.
    pub(crate) shares_blocks: bool,
}

impl Ladder {
    /// Tries what a worker can do in its folder, in a sandbox that found what `probe` says; blocks for a moment.
    pub(crate) fn find(folder: &Path, probe: &Probe) -> Self {
        let reflinks = try_reflink(folder).map_err(|error| error.to_string());
        Self::of(probe, reflinks)
    }

    fn of(probe: &Probe, reflinks: Result<(), String>) -> Self {
        let shares_blocks = reflinks.is_ok();
        let overlays = match &probe.overlay_refused {
            None => Ok(()),
            Some(reason) => Err(reason.clone()),
        };
        let keeper = probe.keeper.clone();
        let tried = [
            (Rung::Overlays, overlays),
            (Rung::Reflinks, reflinks),
            (Rung::HardLinks, keeper.as_ref().map(drop).map_err(String::clone)),
        ];
        let mut refused = Vec::new();
        let mut best = Rung::Copies;
        for (rung, is_there) in tried {
            match is_there {
                Ok(()) => {
                    best = rung;
                    break;
                }
                Err(reason) => refused.push((rung, reason)),
            }
        }
        let owner = match (best, keeper, probe.actor) {
            (Rung::HardLinks, Ok(keeper), _) => Some(keeper),
            // An earlier run, without overlays, may have left some to its keeper.
            (_, _, Actor::Stranger(_)) => Some(rustix::process::geteuid().as_raw()),
            _ => None,
        };
        Self { best, refused, means: Means { owner, shares_blocks } }
    }

    /// The best way there is.
    pub fn best(&self) -> Rung {
        self.best
    }

    /// By which means files get their places.
    pub(crate) fn means(&self) -> Means {
        self.means
    }

    /// The way for a tree: what was asked for, else what costs least. A tree of up to `copied_files` files is
    /// copied if it is light: an overlay would protect little there.
    pub(crate) fn choose(&self, platform: &Properties, tree: Totals, copied_files: usize) -> Rung {
        let is_small = tree.files <= copied_files as u64 && tree.bytes <= COPIED_BYTES;
        match self.best {
            Rung::Overlays if is_small || platform.get(STAGING) == Some(PLAIN) => {
                match self.means.shares_blocks {
                    true => Rung::Reflinks,
                    false => Rung::Copies,
                }
            }
            best => best,
        }
    }
}

impl fmt::Display for Ladder {
    /// A line for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.best {
            Rung::Overlays => {
                "inputs are seen through overlays, above trees of hard links that actions share"
            }
            Rung::Reflinks => "inputs are copies that share their blocks with the store",
            Rung::HardLinks => "inputs are hard links to files that actions cannot change",
            Rung::Copies => "inputs are copies",
        })?;
        for (rung, reason) in &self.refused {
            let what = match rung {
                Rung::Overlays => "overlays",
                Rung::Reflinks => "reflinks",
                Rung::HardLinks => "hard links",
                Rung::Copies => "copies",
            };
            write!(f, "; no {what}: {reason}")?;
        }
        Ok(())
    }
}

/// Makes a file whose blocks another one has, and removes both.
fn try_reflink(folder: &Path) -> io::Result<()> {
    let content = [b'r'; 4096];
    let [from, to] = ["reflink-trial-from", "reflink-trial-to"].map(|name| folder.join(name));
    let tried = fs::write(&from, content).and_then(|()| {
        rustix::fs::ioctl_ficlone(File::create_new(&to)?, File::open(&from)?)?;
        match fs::read(&to)? == content {
            true => Ok(()),
            false => Err(io::Error::other("the copy holds something else")),
        }
    });
    for path in [from, to] {
        // What is left, the next start removes.
        let _ = fs::remove_file(path);
    }
    tried
}

#[cfg(test)]
mod tests {
    use bbb_sandbox::{Enforced, Enforcement, Mode, Staging};

    use super::*;

    fn probe(overlay: Result<(), &str>, keeper: Result<u32, &str>, actor: Actor) -> Probe {
        let not = Enforced::Not;
        Probe {
            mode: Mode::Namespaces,
            staging: if overlay.is_ok() { Staging::Overlay } else { Staging::Plain },
            overlay_refused: overlay.err().map(str::to_owned),
            keeper: keeper.map_err(str::to_owned),
            actor,
            limits: Enforcement { memory: not, processes: not, cpu: not },
            groups: None,
            notes: Vec::new(),
        }
    }

    fn ladder(overlay: Result<(), &str>, reflinks: bool, keeper: Result<u32, &str>) -> Ladder {
        let reflinks = if reflinks { Ok(()) } else { Err("not this file system".to_owned()) };
        Ladder::of(&probe(overlay, keeper, Actor::Stranger(7)), reflinks)
    }

    fn asks(value: Option<&str>) -> Properties {
        value.map(|value| (STAGING.to_owned(), value.to_owned())).into_iter().collect()
    }

    #[test]
    fn the_best_rung_there_is_comes_with_why_there_is_no_better_one() {
        let own = Some(rustix::process::geteuid().as_raw());
        let (no, yes, own_files) = (Err("too old"), Ok(8), Err("it owns them"));
        let cases = [
            (ladder(Ok(()), true, own_files), Rung::Overlays, own, ""),
            (ladder(no, true, yes), Rung::Reflinks, own, "; no overlays: too old"),
            (
                ladder(no, false, yes),
                Rung::HardLinks,
                Some(8),
                "; no overlays: too old; no reflinks: not this file system",
            ),
            (
                ladder(no, false, own_files),
                Rung::Copies,
                own,
                "; no overlays: too old; no reflinks: not this file system; no hard links: it owns them",
            ),
        ];
        for (ladder, best, owner, told) in cases {
            assert_eq!((ladder.best(), ladder.means().owner), (best, owner));
            let line = ladder.to_string();
            assert_eq!(
                line.split_once(';').map_or("", |(_, told)| told),
                told.trim_start_matches(';')
            );
        }
        let alone = Ladder::of(&probe(Ok(()), own_files, Actor::Node(7)), Ok(()));
        assert_eq!(alone.means(), Means { owner: None, shares_blocks: true });
    }

    #[test]
    fn an_overlay_is_for_large_trees_where_it_works_and_nobody_minds() {
        let small = Totals { files: 8, bytes: COPIED_BYTES, ..Totals::default() };
        let many = Totals { files: 9, ..small };
        let heavy = Totals { bytes: COPIED_BYTES + 1, ..small };
        for (reflinks, copies) in [(false, Rung::Copies), (true, Rung::Reflinks)] {
            let ladder = ladder(Ok(()), reflinks, Err("no"));
            for tree in [many, heavy] {
                for value in [None, Some("auto")] {
                    assert_eq!(ladder.choose(&asks(value), tree, 8), Rung::Overlays);
                }
                assert_eq!(ladder.choose(&asks(Some(PLAIN)), tree, 8), copies);
            }
            assert_eq!(ladder.choose(&asks(None), small, 8), copies);
        }
    }

    #[test]
    fn without_overlays_every_tree_goes_one_way() {
        let small = Totals { files: 1, bytes: 1, ..Totals::default() };
        let large = Totals { files: 1000, bytes: 1 << 30, ..Totals::default() };
        for (reflinks, keeper, rung) in [
            (true, Ok(8), Rung::Reflinks),
            (false, Ok(8), Rung::HardLinks),
            (false, Err("no"), Rung::Copies),
        ] {
            let ladder = ladder(Err("no"), reflinks, keeper);
            for tree in [small, large] {
                for value in [None, Some(PLAIN)] {
                    assert_eq!(ladder.choose(&asks(value), tree, 8), rung);
                }
            }
        }
    }

    #[test]
    fn what_the_file_system_can_is_tried_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = try_reflink(folder.path());
        assert_eq!(first.is_ok(), try_reflink(folder.path()).is_ok(), "{first:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(try_reflink(&folder.path().join("none")).is_err());
    }
}
