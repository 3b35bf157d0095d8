//! The input tree of an action, and the order in which it is staged. Pure: no file is touched here.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use bbb_digest::Digest;
use bbb_reapi::{Directory, FileNode, Invalid, NodeProperties, OutputPath, Outputs, SymlinkNode};

/// How many files, directories and symlinks one tree may stage. The messages form a graph by digest, so a
/// few of them can claim more than any disk holds; this is where the claim ends.
const MAX_NODES: usize = 1 << 21;

/// The longest path below the input root in bytes, terminator included (`PATH_MAX`).
const MAX_PATH_LEN: usize = 4096;

/// A whole input tree, by digest.
#[derive(Debug)]
pub(crate) struct InputTree {
    root: Arc<Directory>,
    directories: HashMap<Digest, Arc<Directory>>,
}

/// What stands at a path of an input tree.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node<'a> {
    File(&'a FileNode),
    Directory(&'a Directory),
    Symlink,
}

/// A tree laid out: every directory at each of its places, and each blob with all of its own.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Parents before children, the root first.
    pub(crate) directories: Vec<PlannedDirectory>,
    /// Each blob once, those of one directory next to each other.
    pub(crate) blobs: Vec<PlannedBlob>,
}

/// A directory at its place.
#[derive(Debug)]
pub(crate) struct PlannedDirectory {
    /// Relative to the input root; empty for the root.
    pub(crate) path: String,
    pub(crate) directory: Arc<Directory>,
}

/// A blob and all of its places.
#[derive(Debug)]
pub(crate) struct PlannedBlob {
    pub(crate) digest: Digest,
    /// The index of a directory of the plan, and that of a file within it.
    pub(crate) places: Vec<(usize, usize)>,
}

impl Plan {
    /// The directory and the file of a place.
    pub(crate) fn at(&self, (directory, file): (usize, usize)) -> (&PlannedDirectory, &FileNode) {
        let planned = &self.directories[directory];
        (planned, &planned.directory.files[file])
    }

    /// Whether a directory has properties of its own.
    pub(crate) fn has_properties(&self) -> bool {
        let default = NodeProperties::default();
        self.directories.iter().any(|planned| planned.directory.properties != default)
    }

    /// The symlinks of a directory.
    pub(crate) fn symlinks(&self, directory: usize) -> &[SymlinkNode] {
        &self.directories[directory].directory.symlinks
    }
}

impl InputTree {
    /// The tree that a walk found whole.
    ///
    /// # Errors
    /// If a directory that is referred to was not found.
    pub(crate) fn new(
        root: Digest,
        directories: Vec<(Digest, Arc<Directory>)>,
    ) -> Result<Self, Invalid> {
        let directories: HashMap<_, _> = directories.into_iter().collect();
        let gap =
            || Invalid::new("action.input_root_digest", "refers to a directory that is not there");
        let root = Arc::clone(directories.get(&root).ok_or_else(gap)?);
        let mut nodes = directories.values().flat_map(|directory| &directory.directories);
        match nodes.all(|node| directories.contains_key(&node.digest)) {
            true => Ok(Self { root, directories }),
            false => Err(gap()),
        }
    }

    /// What stands at a path; symlinks on the way are not followed. None if nothing does.
    pub(crate) fn at(&self, path: &OutputPath) -> Option<Node<'_>> {
        let mut node = Node::Directory(&self.root);
        for segment in path.segments() {
            let Node::Directory(directory) = node else { return None };
            node = self.child(directory, segment)?;
        }
        Some(node)
    }

    fn child<'a>(&'a self, directory: &'a Directory, name: &str) -> Option<Node<'a>> {
        if let Some(node) = directory.directories.iter().find(|node| node.name.as_str() == name) {
            return self.directories.get(&node.digest).map(|below| Node::Directory(below));
        }
        if let Some(file) = directory.files.iter().find(|file| file.name.as_str() == name) {
            return Some(Node::File(file));
        }
        directory
            .symlinks
            .iter()
            .any(|symlink| symlink.name.as_str() == name)
            .then_some(Node::Symlink)
    }

    /// Checks that the command can run in its working directory, which must be in the tree (comment of
    /// `Command.working_directory`).
    pub(crate) fn check_working_directory(&self, path: &OutputPath) -> Result<(), Invalid> {
        match self.at(path) {
            Some(Node::Directory(_)) => Ok(()),
            _ => {
                let what = format!("{path} is no directory of the input tree");
                Err(Invalid::new("command.working_directory", what))
            }
        }
    }

    /// The directories that must be made so that outputs have a place: sorted, so parents before children,
    /// without the outputs themselves, relative to the input root.
    ///
    /// # Errors
    /// If a file or symlink of the tree stands where a directory must.
    pub(crate) fn output_parents(&self, outputs: &Outputs) -> Result<Vec<OutputPath>, Invalid> {
        let mut parents = std::collections::BTreeSet::new();
        for output in outputs.iter() {
            let above = std::iter::successors(output.path.parent(), OutputPath::parent);
            for parent in above.take_while(|parent| !parent.is_empty()) {
                if !parents.insert(parent.clone()) {
                    break;
                }
                let kind = match self.at(&parent) {
                    Some(Node::File(_)) => "a file",
                    Some(Node::Symlink) => "a symlink",
                    Some(Node::Directory(_)) | None => continue,
                };
                let what = format!(
                    "{} would be below {parent}, {kind} of the input tree",
                    output.declared
                );
                return Err(Invalid::new("command.output_paths", what));
            }
        }
        Ok(parents.into_iter().collect())
    }

    /// Lays the tree out.
    ///
    /// # Errors
    /// If it has too many nodes, or its paths are too long.
    pub(crate) fn plan(&self) -> Result<Plan, Invalid> {
        let too_large = |what: String| Err(Invalid::new("action.input_root_digest", what));
        let mut plan = Plan::default();
        let mut blob_index: HashMap<Digest, usize> = HashMap::new();
        let mut nodes = 0;
        let mut waiting = vec![(String::new(), Arc::clone(&self.root))];
        while let Some((path, directory)) = waiting.pop() {
            nodes += directory.names().count();
            if nodes > MAX_NODES {
                return too_large(format!("has more than {MAX_NODES} nodes"));
            }
            if let Some(name) = directory.names().max_by_key(|name| name.as_str().len())
                && path.len() + 1 + name.as_str().len() >= MAX_PATH_LEN
            {
                return too_large(format!("has a path of over {MAX_PATH_LEN} bytes"));
            }
            let index = plan.directories.len();
            for (position, file) in directory.files.iter().enumerate() {
                let blob = match blob_index.entry(file.digest) {
                    hash_map::Entry::Occupied(entry) => *entry.get(),
                    hash_map::Entry::Vacant(entry) => {
                        let blob = PlannedBlob { digest: file.digest, places: Vec::new() };
                        plan.blobs.push(blob);
                        *entry.insert(plan.blobs.len() - 1)
                    }
                };
                plan.blobs[blob].places.push((index, position));
            }
            for node in directory.directories.iter().rev() {
                // `new` has seen to it that every directory is there.
                let Some(below) = self.directories.get(&node.digest) else { continue };
                let separator = if path.is_empty() { "" } else { "/" };
                let path = format!("{path}{separator}{}", node.name.as_str());
                waiting.push((path, Arc::clone(below)));
            }
            plan.directories.push(PlannedDirectory { path, directory });
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use bbb_digest::Function;
    use bbb_reapi::Output;
    use bbb_reapi::{DirectoryNode, FileName};

    use super::*;

    const FUNCTION: Function = Function::Sha256;

    fn name(name: &str) -> FileName {
        FileName::new(name).unwrap()
    }

    fn path(path: &str) -> OutputPath {
        OutputPath::new(path).unwrap()
    }

    fn file(at: &str, content: &[u8]) -> FileNode {
        FileNode {
            name: name(at),
            digest: Digest::of(FUNCTION, content),
            is_executable: false,
            properties: NodeProperties::default(),
        }
    }

    /// A root with a file, a symlink and one directory at two places.
    fn tree() -> InputTree {
        let below = Directory { files: vec![file("f", b"x")], ..Directory::default() };
        let digest = Digest::of(FUNCTION, b"below");
        let node = |at| DirectoryNode { name: name(at), digest };
        let target = "a".into();
        let symlink =
            SymlinkNode { name: name("link"), target, properties: NodeProperties::default() };
        let root = Directory {
            files: vec![file("f", b"x"), file("g", b"y")],
            directories: vec![node("a"), node("b")],
            symlinks: vec![symlink],
            ..Directory::default()
        };
        let root_digest = Digest::of(FUNCTION, b"root");
        let directories = vec![(root_digest, Arc::new(root)), (digest, Arc::new(below))];
        InputTree::new(root_digest, directories).unwrap()
    }

    #[test]
    fn each_blob_is_planned_once_with_all_its_places() {
        let plan = tree().plan().unwrap();
        let paths: Vec<_> = plan.directories.iter().map(|planned| planned.path.as_str()).collect();
        assert_eq!(paths, ["", "a", "b"]);
        let places: Vec<_> = plan.blobs.iter().map(|blob| blob.places.clone()).collect();
        assert_eq!(places, [vec![(0, 0), (1, 0), (2, 0)], vec![(0, 1)]]);
    }

    #[test]
    fn parents_of_outputs_come_outermost_first_and_are_no_files() {
        let output = |at: &&str| Output { declared: (*at).into(), path: path(at) };
        let outputs = |paths: &[&str]| Outputs::Paths(paths.iter().map(output).collect());
        let parents = tree().output_parents(&outputs(&["a/x/y/z", "a/o"])).unwrap();
        assert_eq!(parents, [path("a"), path("a/x"), path("a/x/y")]);
        for bad in ["f/x", "link/x", "a/f/x/y"] {
            assert!(tree().output_parents(&outputs(&[bad])).is_err(), "{bad}");
        }
        // An output may take the place of an input.
        assert!(tree().output_parents(&outputs(&["f", "link", "a"])).is_ok());
    }

    #[test]
    fn a_tree_with_a_gap_is_refused() {
        let digest = Digest::of(FUNCTION, b"nowhere");
        let node = DirectoryNode { name: name("a"), digest };
        let root = Directory { directories: vec![node], ..Directory::default() };
        let root_digest = Digest::of(FUNCTION, b"root");
        assert!(InputTree::new(root_digest, vec![(root_digest, Arc::new(root))]).is_err());
        assert!(InputTree::new(root_digest, Vec::new()).is_err());
    }
}
