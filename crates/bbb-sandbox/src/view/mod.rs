//! What an action left in its exec root, read from outside and without a mount.
//!
//! Gives the merged state of an overlay: what is in `upper` hides what is below, whiteouts hide what was removed,
//! opaque folders hide the folders below them. Names come from outside and files from the action, so nothing is
//! trusted: paths are walked name by name on descriptors, never by the kernel; links are followed only inside of
//! the tree, and never the last one; nothing but regular files is ever opened for reading. What the action made
//! unreadable is made readable. Refuses to know what an output is.
//!
//! All functions block on the file system. The action must have ended.

mod layer;

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use crate::request::ExecRoot;
use layer::{Repairs, Seen};

/// Links that are followed on the way to one path, as the kernel has it.
const MAX_LINKS: u32 = 40;

/// The merged state of an exec root.
pub struct View {
    /// Host paths of the layers, uppermost first.
    layers: Vec<PathBuf>,
    is_overlay: bool,
    mount_point: PathBuf,
    repairs: Repairs,
}

/// Something at a path of the exec root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits as the action left them.
    pub mode: u32,
    /// Length in bytes, of regular files.
    pub size_bytes: u64,
    /// When its content was changed last.
    pub modified: SystemTime,
    /// Names that it has, on its layer.
    pub links: u64,
    /// Where it lies on the host.
    pub origin: Origin,
}

/// The kinds of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, and what it says.
    Link(OsString),
    /// A FIFO, socket or device.
    Special,
}

/// Where an entry lies, as a host path without links in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the upper layer: made or changed by the action, and free to be moved away.
    Upper(PathBuf),
    /// In a lower layer: an input that is as it was, and shared.
    Lower(PathBuf),
    /// In a plain exec root: an input or not.
    Plain(PathBuf),
}

impl Origin {
    /// The host path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Origin::Upper(path) | Origin::Lower(path) | Origin::Plain(path) => path,
        }
    }
}

/// The host's file system failed; what is not there is no error.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {} of an exec root", path.display())]
pub struct ViewError {
    /// The path in the exec root.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// A merged folder: its descriptors on all layers that have a part in it, uppermost first.
struct Folder {
    parts: Vec<(usize, OwnedFd)>,
    /// Its path on each of them.
    path: PathBuf,
}

impl View {
    /// The state of `root`, which stood at `mount_point` (links to below that are links to inside).
    #[must_use]
    pub fn new(root: &ExecRoot, mount_point: &Path) -> Self {
        let (layers, is_overlay) = match root {
            ExecRoot::Plain(folder) => (vec![folder.clone()], false),
            ExecRoot::Overlay { lowers, upper, .. } => {
                (std::iter::once(upper).chain(lowers).cloned().collect(), true)
            }
        };
        View {
            layers,
            is_overlay,
            mount_point: mount_point.to_owned(),
            repairs: Mutex::new(HashMap::new()),
        }
    }

    /// What is at `path`; links on the way are followed while they stay inside, the last one is not.
    ///
    /// `None` if there is nothing, or the path leaves the exec root.
    ///
    /// # Errors
    /// If the host's file system fails.
    pub fn look_up(&self, path: &Path) -> Result<Option<Entry>, ViewError> {
        self.walk(path).map(|found| found.map(|(entry, _)| entry)).map_err(at(path))
    }

    /// The entries of the folder at `path`, sorted by name; `None` if there is no folder.
    ///
    /// # Errors
    /// If the host's file system fails.
    pub fn list(&self, path: &Path) -> Result<Option<Vec<(OsString, Entry)>>, ViewError> {
        let Some((_, Place::Folder(folder))) = self.walk(path).map_err(at(path))? else {
            return Ok(None);
        };
        let mut entries = Vec::new();
        for name in layer::names(&folder.parts).map_err(at(path))? {
            if let Some((entry, _)) = self.step(&folder, &name).map_err(at(&path.join(&name)))? {
                entries.push((name, entry));
            }
        }
        Ok(Some(entries))
    }

    /// The regular file at `path`, for reading; `None` if there is something else or nothing.
    ///
    /// # Errors
    /// If the host's file system fails.
    pub fn open(&self, path: &Path) -> Result<Option<File>, ViewError> {
        match self.walk(path).map_err(at(path))? {
            Some((Entry { kind: Kind::File, .. }, Place::Leaf { folder, name })) => {
                layer::open_file(&folder, &name, &self.repairs).map_err(at(path))
            }
            _ => Ok(None),
        }
    }

    fn walk(&self, path: &Path) -> io::Result<Option<(Entry, Place)>> {
        let mut open = VecDeque::new();
        if !push_front(&mut open, path, None) {
            return Ok(None);
        }
        let mut links = 0;
        let mut folders = vec![self.root()?];
        while let Some(name) = open.pop_front() {
            let Some(folder) = folders.last() else { return Ok(None) };
            if name == ".." {
                folders.pop();
                continue;
            }
            match self.step(folder, &name)? {
                None => return Ok(None),
                Some((_, Place::Folder(folder))) => folders.push(folder),
                Some((Entry { kind: Kind::Link(target), .. }, _)) if !open.is_empty() => {
                    links += 1;
                    let target = Path::new(&target);
                    if links > MAX_LINKS || !push_front(&mut open, target, Some(&self.mount_point))
                    {
                        return Ok(None);
                    }
                    if target.is_absolute() {
                        folders.truncate(1);
                    }
                }
                Some(leaf) if open.is_empty() => return Ok(Some(leaf)),
                Some(_) => return Ok(None),
            }
        }
        let Some(folder) = folders.pop() else { return Ok(None) };
        let Some((layer, fd)) = folder.parts.first() else { return Ok(None) };
        let seen = layer::see(fd, OsStr::new(""), &self.repairs)?;
        let origin = self.origin(*layer, &folder.path);
        Ok(seen.map(|seen| (entry(seen, origin), Place::Folder(folder))))
    }

    fn root(&self) -> io::Result<Folder> {
        let mut parts = Vec::with_capacity(self.layers.len());
        for (layer, path) in self.layers.iter().enumerate() {
            match layer::open_root(path, &self.repairs) {
                Ok(root) => parts.push((layer, root)),
                // Without namespaces an action may have removed or replaced its own exec root.
                Err(error) if !self.is_overlay && layer::is_no_folder(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Folder { parts, path: PathBuf::new() })
    }

    /// What is under one name of a folder, after the rules of overlays.
    fn step(&self, folder: &Folder, name: &OsStr) -> io::Result<Option<(Entry, Place)>> {
        let path = folder.path.join(name);
        let mut merged: Option<(Entry, Vec<(usize, OwnedFd)>)> = None;
        for (layer, parent) in &folder.parts {
            let Some(seen) = layer::see(parent, name, &self.repairs)? else { continue };
            if self.is_overlay && layer::is_whiteout(parent, name, &seen)? {
                break;
            }
            if seen.kind != Kind::Folder {
                if merged.is_none() {
                    let entry = entry(seen, self.origin(*layer, &path));
                    let folder = parent.try_clone()?;
                    return Ok(Some((entry, Place::Leaf { folder, name: name.to_owned() })));
                }
                break;
            }
            let fd = layer::open_folder(parent, name, &self.repairs)?;
            let is_opaque = self.is_overlay && layer::is_opaque(&fd)?;
            match &mut merged {
                Some((_, parts)) => parts.push((*layer, fd)),
                None => {
                    merged = Some((entry(seen, self.origin(*layer, &path)), vec![(*layer, fd)]));
                }
            }
            if is_opaque {
                break;
            }
        }
        Ok(merged.map(|(entry, parts)| (entry, Place::Folder(Folder { parts, path }))))
    }

    fn origin(&self, layer: usize, path: &Path) -> Origin {
        let path = self.layers[layer].join(path);
        match layer {
            _ if !self.is_overlay => Origin::Plain(path),
            0 => Origin::Upper(path),
            _ => Origin::Lower(path),
        }
    }
}

/// Where a walk ended.
enum Place {
    Folder(Folder),
    Leaf { folder: OwnedFd, name: OsString },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ViewError {
    move |source| ViewError { path: path.to_owned(), source }
}

fn entry(seen: Seen, origin: Origin) -> Entry {
    let Seen { kind, mode, size_bytes, modified, links, .. } = seen;
    Entry { kind, mode, size_bytes, modified, links, origin }
}

/// Puts the names of `path` before what is still to be walked; whether it stays inside as far as its start goes.
///
/// An absolute path starts at the exec root if it is a link's and below `mount_point`.
fn push_front(open: &mut VecDeque<OsString>, path: &Path, mount_point: Option<&Path>) -> bool {
    let relative = match (path.is_absolute(), mount_point) {
        (false, _) => path,
        (true, Some(mount_point)) => match path.strip_prefix(mount_point) {
            Ok(relative) => relative,
            Err(_) => return false,
        },
        (true, None) => return false,
    };
    for part in relative.components().rev() {
        match part {
            Component::Normal(name) => open.push_front(name.to_owned()),
            Component::ParentDir => open.push_front("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    true
}

#[cfg(test)]
mod tests;
