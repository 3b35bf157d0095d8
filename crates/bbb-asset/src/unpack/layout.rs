//! The tree that an archive describes, as it comes to be: whatever is no tree is refused here, for all formats.

use std::{
    collections::HashMap,
    io::{self, Read},
};

use bbb_reapi::FileName;

use super::{EntryPath, Sink, UnpackError, UnpackLimits};

/// The longest target of a symbolic link, in bytes (`PATH_MAX`, without the NUL).
pub(super) const MAX_TARGET_BYTES: usize = 4095;

/// How much of an entry's name is told in an error, in bytes.
const MAX_TOLD_BYTES: usize = 200;

/// What was unpacked until now, by names alone.
pub(super) struct Layout<'a> {
    limits: &'a UnpackLimits,
    sink: &'a mut dyn Sink,
    root: Names,
    entries: usize,
}

type Names = HashMap<FileName, Node>;

enum Node {
    Directory(Names),
    File,
    Symlink,
}

impl Node {
    fn kind(&self) -> &'static str {
        match self {
            Self::Directory(_) => "a directory",
            Self::File => "a file",
            Self::Symlink => "a symbolic link",
        }
    }
}

impl<'a> Layout<'a> {
    pub(super) fn new(limits: &'a UnpackLimits, sink: &'a mut dyn Sink) -> Self {
        Self { limits, sink, root: Names::new(), entries: 0 }
    }

    /// How long a path may be, in bytes.
    pub(super) fn path_bytes(&self) -> usize {
        self.limits.path_bytes
    }

    /// How many entries there may be.
    pub(super) fn max_entries(&self) -> usize {
        self.limits.entries
    }

    pub(super) fn directory(&mut self, name: &[u8]) -> Result<(), UnpackError> {
        let path = self.path(name)?;
        self.parents(name, &path, path.names().len()).map(drop)
    }

    pub(super) fn file(
        &mut self,
        name: &[u8],
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        let path = self.place(name, Node::File)?;
        self.sink.file(&path, executable, content).map_err(of_sink)?;
        // To the end, where checksums are.
        io::copy(content, &mut io::sink()).map_err(UnpackError::of_reader)?;
        Ok(())
    }

    pub(super) fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let is_sound =
            !target.is_empty() && target.len() <= MAX_TARGET_BYTES && !target.contains(&0);
        let Some(target) = str::from_utf8(target).ok().filter(|_| is_sound) else {
            let what = "is a symbolic link whose target is empty, too long, or no text";
            return Err(evil(name, what));
        };
        let path = self.place(name, Node::Symlink)?;
        if !path.keeps_in(target) {
            let told = &target[..target.floor_char_boundary(MAX_TOLD_BYTES)];
            return Err(evil(name, format!("is a symbolic link that leads out, to {told:?}")));
        }
        self.sink.symlink(&path, target).map_err(of_sink)
    }

    /// A hard link.
    pub(super) fn link(&mut self, name: &[u8], to: &[u8]) -> Result<(), UnpackError> {
        let target = EntryPath::parse(to, self.limits.path_bytes, self.limits.depth)
            .map_err(|what| evil(name, format!("is a hard link to what {what}")))?;
        match self.find(&target) {
            Some(Node::File) => {}
            found => {
                let found = found.map_or("nothing that came before", Node::kind);
                return Err(evil(name, format!("is a hard link to {found}")));
            }
        }
        let path = self.place(name, Node::File)?;
        self.sink.link(&path, &target).map_err(of_sink)
    }

    fn path(&self, name: &[u8]) -> Result<EntryPath, UnpackError> {
        EntryPath::parse(name, self.limits.path_bytes, self.limits.depth)
            .map_err(|what| evil(name, what))
    }

    fn find(&self, path: &EntryPath) -> Option<&Node> {
        let (last, parents) = path.names().split_last()?;
        let mut names = &self.root;
        for parent in parents {
            match names.get(parent)? {
                Node::Directory(below) => names = below,
                Node::File | Node::Symlink => return None,
            }
        }
        names.get(last)
    }

    /// Puts a node where there is none.
    fn place(&mut self, name: &[u8], node: Node) -> Result<EntryPath, UnpackError> {
        let path = self.path(name)?;
        let Some((last, parents)) = path.names().split_last() else {
            return Err(evil(name, format!("is {}, and the root", node.kind())));
        };
        let names = self.parents(name, &path, parents.len())?;
        if let Some(there) = names.get(last) {
            return Err(evil(name, format!("is there before, as {}", there.kind())));
        }
        names.insert(last.clone(), node);
        self.count()?;
        Ok(path)
    }

    /// The directory of the first `depth` names of `path`, made where it is not.
    fn parents(
        &mut self,
        name: &[u8],
        path: &EntryPath,
        depth: usize,
    ) -> Result<&mut Names, UnpackError> {
        let mut names = &mut self.root;
        for (index, parent) in path.names()[..depth].iter().enumerate() {
            if !names.contains_key(parent) {
                self.entries += 1;
                check_count(self.entries, self.limits)?;
                self.sink.directory(&path.prefix(index + 1)).map_err(of_sink)?;
            }
            let node = names.entry(parent.clone()).or_insert_with(|| Node::Directory(Names::new()));
            match node {
                Node::Directory(below) => names = below,
                other => {
                    let kind = other.kind();
                    let what = match index + 1 == path.names().len() {
                        true => format!("is there before, as {kind}"),
                        false => {
                            format!("lies under {:?}, which is {kind}", path.prefix(index + 1))
                        }
                    };
                    return Err(evil(name, what));
                }
            }
        }
        Ok(names)
    }

    fn count(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        check_count(self.entries, self.limits)
    }
}

fn check_count(entries: usize, limits: &UnpackLimits) -> Result<(), UnpackError> {
    match entries > limits.entries {
        true => Err(UnpackError::TooMuch(format!("{} entries", limits.entries))),
        false => Ok(()),
    }
}

/// An entry that is not taken.
pub(super) fn evil(name: &[u8], what: impl Into<String>) -> UnpackError {
    let mut entry = String::from_utf8_lossy(&name[..name.len().min(MAX_TOLD_BYTES)]).into_owned();
    if name.len() > MAX_TOLD_BYTES {
        entry.push('…');
    }
    UnpackError::Entry { entry, what: what.into() }
}

/// An error out of a sink: its own, or what it passes on from what it read.
fn of_sink(error: io::Error) -> UnpackError {
    error.downcast().unwrap_or_else(UnpackError::Sink)
}
