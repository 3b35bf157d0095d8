//! What of a command's files is its outputs: a survey of the exec root after the run, before anything is
//! hashed or stored.
//!
//! Decisions where the API's comments leave room:
//! - Sockets, FIFOs and devices are left out, and the response's message names them.
//! - A name or a symlink's target that is not UTF-8 cannot be told to a client: the action ends in
//!   FAILED_PRECONDITION instead of a result that lacks it.
//! - For `output_files` and `output_directories` a symlink must lead to the declared kind. One that dangles
//!   or leaves the input root has no kind that this worker may look at, and is taken as it is.
//! - An output that an action moved behind a symlink is found there, as long as that stays in the root.
//!
//! The room reads the exec root through [`View`] alone; all of it blocks.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bbb_digest::Digest;
use bbb_reapi::{FileName, NodeProperties, Output, OutputPath, Outputs};
use bbb_sandbox::{Entry, ExecRoot, Kind, Origin, View};

use crate::{error::Error, fetch::Lease, inputs::Node};

/// How many nodes the outputs of one action may have.
const MAX_NODES: usize = 1 << 20;

/// How many bytes all names, paths and targets of them may have together: they are kept until the result is made.
const MAX_TEXT_BYTES: usize = 128 << 20;

/// How many notes are kept; an action can leave any number of sockets.
const MAX_NOTES: usize = 20;

/// How many folders an output may be nested in.
const MAX_DEPTH: usize = 512;

/// How long the host's path of an output may be in bytes, terminator included (`PATH_MAX`): a command can go deeper, step by step.
const MAX_PATH_LEN: usize = 4096;

/// Where an action's files are to be looked for.
pub(crate) struct Scene<'a> {
    pub(crate) lease: &'a Lease,
    pub(crate) root: &'a ExecRoot,
    pub(crate) view: View,
    /// Where the exec root stood for the command.
    pub(crate) mount_point: &'a Path,
}

/// The outputs as they lie there.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Each output that is there, in the order in which they were declared.
    pub(crate) outputs: Vec<(Box<str>, Declared, Found)>,
    /// Every file among the outputs, the index being what [`Found::File`] refers to.
    pub(crate) files: Vec<OutputFile>,
    /// What was left out, for people.
    pub(crate) notes: Vec<String>,
    /// How much more was left out.
    pub(crate) further_notes: usize,
    /// Why the outputs cannot be what the client wants.
    pub(crate) problem: Option<String>,
    nodes: usize,
    text_bytes: usize,
}

/// As what an output was declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declared {
    Path,
    File,
    Directory,
}

/// What lies at the path of an output, or below it.
#[derive(Debug)]
pub(crate) enum Found {
    File { index: usize, is_executable: bool, properties: NodeProperties },
    Directory { entries: Vec<(FileName, Found)>, properties: NodeProperties },
    Symlink { target: String, properties: NodeProperties },
}

/// A file among the outputs.
#[derive(Debug)]
pub(crate) enum OutputFile {
    /// An input that is as it was: its blob needs neither hashing nor copying.
    Unchanged(Digest),
    /// Made by the action.
    Made(PathBuf),
}

impl Survey {
    /// Looks at all that the command of `lease` declares.
    pub(crate) fn take(scene: &Scene<'_>) -> Result<Self, Error> {
        let mut survey = Self::default();
        let declared: Vec<(&Output, Declared)> = match &scene.lease.command.outputs {
            Outputs::Paths(paths) => paths.iter().map(|path| (path, Declared::Path)).collect(),
            Outputs::Legacy { files, directories } => (files.iter())
                .map(|path| (path, Declared::File))
                .chain(directories.iter().map(|path| (path, Declared::Directory)))
                .collect(),
        };
        for (output, declared) in declared {
            let at = Path::new(output.path.as_str());
            let Some(entry) = scene.view.look_up(at).map_err(unreadable)? else { continue };
            survey.check_kind(scene, &output.declared, at, declared, &entry)?;
            if let Some(found) = survey.node(scene, at, &entry, 0)? {
                survey.outputs.push((output.declared.clone(), declared, found));
            }
        }
        Ok(survey)
    }

    /// Whether a directory is among the outputs.
    pub(crate) fn has_directories(&self) -> bool {
        self.outputs.iter().any(|(_, _, found)| matches!(found, Found::Directory { .. }))
    }

    /// Notes it where an output is of another kind than was declared.
    fn check_kind(
        &mut self,
        scene: &Scene<'_>,
        path: &str,
        at: &Path,
        declared: Declared,
        entry: &Entry,
    ) -> Result<(), Error> {
        let is_link = matches!(entry.kind, Kind::Link(_));
        let kind = match &entry.kind {
            Kind::Link(target) => end_of_link(scene, at, target)?,
            kind => Some(kind.clone()),
        };
        let (wrong, right) = match (declared, kind) {
            (Declared::File, Some(Kind::Folder)) => ("a directory", "a file"),
            (Declared::Directory, Some(Kind::File)) => ("a file", "a directory"),
            _ => return Ok(()),
        };
        let link = if is_link { "a symlink to " } else { "" };
        self.object(format!("output {path} is {link}{wrong}, but was declared as {right}"));
        Ok(())
    }

    /// One node of an output; none where it is left out.
    fn node(
        &mut self,
        scene: &Scene<'_>,
        at: &Path,
        entry: &Entry,
        depth: usize,
    ) -> Result<Option<Found>, Error> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            self.object(format!(
                "outputs have more than {MAX_NODES} nodes or are nested deeper than {MAX_DEPTH}"
            ));
            return Ok(None);
        }
        let properties = properties(scene.lease, entry);
        match &entry.kind {
            Kind::File if entry.origin.path().as_os_str().len() >= MAX_PATH_LEN => {
                self.object(format!("an output has a path of over {MAX_PATH_LEN} bytes"));
                Ok(None)
            }
            Kind::File if !self.keeps(entry.origin.path().as_os_str()) => Ok(None),
            Kind::File => {
                self.files.push(output_file(scene, entry));
                let index = self.files.len() - 1;
                let is_executable = entry.mode & 0o111 != 0;
                Ok(Some(Found::File { index, is_executable, properties }))
            }
            Kind::Link(target) if !self.keeps(target) => Ok(None),
            Kind::Link(target) => match target.to_str() {
                Some(target) => Ok(Some(Found::Symlink { target: target.to_owned(), properties })),
                None => {
                    self.object(format!("the target of symlink {} is not UTF-8", at.display()));
                    Ok(None)
                }
            },
            Kind::Folder => {
                let entries = self.entries(scene, at, depth)?;
                Ok(Some(Found::Directory { entries, properties }))
            }
            Kind::Special => {
                let what = "is a socket, FIFO or device and was left out";
                match self.notes.len() < MAX_NOTES {
                    true => self.notes.push(format!("output {} {what}", at.display())),
                    false => self.further_notes += 1,
                }
                Ok(None)
            }
        }
    }

    fn entries(
        &mut self,
        scene: &Scene<'_>,
        at: &Path,
        depth: usize,
    ) -> Result<Vec<(FileName, Found)>, Error> {
        let mut entries = Vec::new();
        for (name, entry) in scene.view.list(at).map_err(unreadable)?.unwrap_or_default() {
            let at = at.join(&name);
            let Some(name) = name.to_str().and_then(|name| FileName::new(name).ok()) else {
                self.object(format!("the name of output {} is not UTF-8", at.display()));
                continue;
            };
            if let Some(found) = self.node(scene, &at, &entry, depth + 1)?
                && self.keeps(name.as_str().as_ref())
            {
                entries.push((name, found));
            }
            if self.nodes > MAX_NODES {
                break;
            }
        }
        Ok(entries)
    }

    /// Counts what is about to be kept; whether it may be.
    fn keeps(&mut self, text: &OsStr) -> bool {
        self.text_bytes = self.text_bytes.saturating_add(text.len());
        let keeps = self.text_bytes <= MAX_TEXT_BYTES;
        if !keeps {
            self.object(format!(
                "names, paths and targets of outputs have more than {MAX_TEXT_BYTES} bytes"
            ));
        }
        keeps
    }

    /// Keeps the first thing that is wrong.
    fn object(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }
}

/// The kind of what a symlink leads to, if that is there and inside of the root.
fn end_of_link(scene: &Scene<'_>, at: &Path, target: &OsStr) -> Result<Option<Kind>, Error> {
    // How many links are followed, as the kernel has it.
    const MAX_LINKS: usize = 40;
    let mut from = at.to_owned();
    let mut target = target.to_owned();
    for _ in 0..MAX_LINKS {
        let path = Path::new(&target);
        from = match path.strip_prefix(scene.mount_point) {
            Ok(inside) => inside.to_owned(),
            Err(_) if path.is_absolute() => return Ok(None),
            Err(_) => from.parent().unwrap_or(Path::new("")).join(path),
        };
        match scene.view.look_up(&from).map_err(unreadable)?.map(|entry| entry.kind) {
            Some(Kind::Link(next)) => target = next,
            kind => return Ok(kind),
        }
    }
    Ok(None)
}

fn unreadable(error: bbb_sandbox::ViewError) -> Error {
    Error::fault("survey the outputs", error)
}

fn properties(lease: &Lease, entry: &Entry) -> NodeProperties {
    let command = &lease.command;
    let is_link = matches!(entry.kind, Kind::Link(_));
    let mtime = entry.modified.max(SystemTime::UNIX_EPOCH);
    NodeProperties {
        unix_mode: (command.wants_unix_mode && !is_link).then_some(entry.mode & 0o777),
        mtime: command.wants_mtime.then_some(mtime),
    }
}

/// Where the content of an output comes from: what shows through from below the overlay is as it was.
fn output_file(scene: &Scene<'_>, entry: &Entry) -> OutputFile {
    let path = entry.origin.path();
    match unchanged(scene, &entry.origin) {
        Some(digest) => OutputFile::Unchanged(digest),
        None => OutputFile::Made(path.to_owned()),
    }
}

fn unchanged(scene: &Scene<'_>, origin: &Origin) -> Option<Digest> {
    let (Origin::Lower(path), ExecRoot::Overlay { lowers, .. }) = (origin, scene.root) else {
        return None;
    };
    let inside = lowers.iter().find_map(|lower| path.strip_prefix(lower).ok())?;
    let inside = OutputPath::new(inside.to_str()?).ok()?;
    match scene.lease.inputs.at(&inside) {
        Some(Node::File(file)) => Some(file.digest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_outputs_is_bounded() {
        let mut survey = Survey::default();
        let half = "x".repeat(MAX_TEXT_BYTES / 2);
        assert!(survey.keeps(half.as_ref()) && survey.keeps(half.as_ref()));
        assert_eq!(survey.problem, None);
        assert!(!survey.keeps("x".as_ref()) && !survey.keeps(half.as_ref()));
        assert!(survey.problem.unwrap().contains("targets"));
    }
}
