//! Where exec roots stand: folders in the root that all actions have in common, made for the first who wants one.
//!
//! Clients say where that is, each time somewhere else if they like. So there is a bound: when it is met, all go that no action
//! stands in.

use std::fs;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode};

use super::mounts::is_temporary;
use super::template::Template;
use crate::fault::{Fault, Step};

/// How many folders there may be before those that nobody uses go. One exec root more than that may be there.
const MAX_MADE: usize = 1024;

/// The folders that were made, parents before what is in them.
#[derive(Debug, Default)]
pub(super) struct Points {
    made: Vec<PathBuf>,
}

impl Points {
    /// Makes the folder for an exec root, if it is not there; the parents too. Exec roots stand at `in_use`.
    pub(super) fn make<'a>(
        &mut self,
        template: &Template,
        point: &Path,
        in_use: impl Iterator<Item = &'a Path> + Clone,
    ) -> Result<(), Fault> {
        // What is to be in an action's own /tmp is made in there.
        if is_temporary(point) || fs::metadata(point).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        if self.made.len() >= MAX_MADE {
            self.sweep(template, in_use);
        }
        let mut path = PathBuf::from("/");
        for part in point.components().filter(|part| matches!(part, Component::Normal(_))) {
            path.push(part);
            match rustix::fs::mkdirat(&template.root, relative(&path), Mode::from_raw_mode(0o755)) {
                Ok(()) => self.made.push(path.clone()),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => {
                    let fault = Fault::new(Step::MountPoint, error.into());
                    return Err(fault.about(point.display()));
                }
            }
        }
        Ok(())
    }

    /// Removes what nobody uses. Only what was made here: to remove a folder is to unmount what others have mounted there.
    fn sweep<'a>(&mut self, template: &Template, in_use: impl Iterator<Item = &'a Path> + Clone) {
        let mut left = Vec::new();
        for path in std::mem::take(&mut self.made).into_iter().rev() {
            let is_used = in_use.clone().any(|point| point.starts_with(&path));
            if is_used
                || rustix::fs::unlinkat(&template.root, relative(&path), AtFlags::REMOVEDIR)
                    .is_err()
            {
                left.push(path);
            }
        }
        left.reverse();
        self.made = left;
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}
