//! The input tree of an action: what stands where in it, and what it may not be. Pure: no file is touched here.

use std::{collections::BTreeSet, ops::Deref, sync::Arc};

use bbb_reapi::{FileNode, Invalid, OutputPath, Outputs};
use bbb_storage::Subtree;

/// How many files, directories and symlinks one tree may stage. The messages form a graph by digest, so a
/// few of them can claim more than any disk holds; this is where the claim ends.
const MAX_NODES: u64 = 1 << 21;

/// The longest path below the input root in bytes, terminator included (`PATH_MAX`).
const MAX_PATH_LEN: usize = 4096;

/// A whole input tree that can be staged.
#[derive(Clone, Debug)]
pub(crate) struct InputTree(Arc<Subtree>);

/// What stands at a path of an input tree.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node<'a> {
    File(&'a FileNode),
    Directory(&'a Subtree),
    Symlink,
}

impl InputTree {
    /// A tree, unless it has too many nodes or its paths are too long.
    pub(crate) fn new(tree: Arc<Subtree>) -> Result<Self, Invalid> {
        let too_large = |what: String| Err(Invalid::new("action.input_root_digest", what));
        let totals = tree.totals();
        if totals.nodes > MAX_NODES {
            return too_large(format!("has more than {MAX_NODES} nodes"));
        }
        if totals.path_len >= MAX_PATH_LEN {
            return too_large(format!("has a path of over {MAX_PATH_LEN} bytes"));
        }
        Ok(Self(tree))
    }

    /// What stands at a path; symlinks on the way are not followed. None if nothing does.
    pub(crate) fn at(&self, path: &OutputPath) -> Option<Node<'_>> {
        let mut node = Node::Directory(&self.0);
        for segment in path.segments() {
            let Node::Directory(directory) = node else { return None };
            node = child(directory, segment)?;
        }
        Some(node)
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
        let mut parents = BTreeSet::new();
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
}

impl Deref for InputTree {
    type Target = Arc<Subtree>;

    fn deref(&self) -> &Arc<Subtree> {
        &self.0
    }
}

fn child<'a>(tree: &'a Subtree, name: &str) -> Option<Node<'a>> {
    if let Some(below) = tree.child(name) {
        return Some(Node::Directory(below));
    }
    let directory = tree.directory();
    if let Some(file) = directory.files.iter().find(|file| file.name.as_str() == name) {
        return Some(Node::File(file));
    }
    let mut symlinks = directory.symlinks.iter();
    symlinks.any(|symlink| symlink.name.as_str() == name).then_some(Node::Symlink)
}

#[cfg(test)]
mod tests {
    use bbb_reapi::{Output, OutputPath};

    use super::*;
    use crate::seeds::Seed;

    fn path(path: &str) -> OutputPath {
        OutputPath::new(path).unwrap()
    }

    async fn tree() -> InputTree {
        let below = || Seed::directory([("f", Seed::file("x"))]);
        let root = Seed::directory([
            ("f", Seed::file("x")),
            ("a", below()),
            ("b", below()),
            ("link", Seed::symlink("a")),
        ]);
        InputTree::new(root.grow().await).unwrap()
    }

    #[tokio::test]
    async fn parents_of_outputs_come_outermost_first_and_are_no_files() {
        let tree = tree().await;
        let output = |at: &&str| Output { declared: (*at).into(), path: path(at) };
        let outputs = |paths: &[&str]| Outputs::Paths(paths.iter().map(output).collect());
        let parents = tree.output_parents(&outputs(&["a/x/y/z", "a/o"])).unwrap();
        assert_eq!(parents, [path("a"), path("a/x"), path("a/x/y")]);
        for bad in ["f/x", "link/x", "a/f/x/y"] {
            assert!(tree.output_parents(&outputs(&[bad])).is_err(), "{bad}");
        }
        // An output may take the place of an input.
        assert!(tree.output_parents(&outputs(&["f", "link", "a"])).is_ok());
    }

    #[tokio::test]
    async fn a_working_directory_is_a_directory() {
        let tree = tree().await;
        for good in ["", "a", "b"] {
            assert!(tree.check_working_directory(&path(good)).is_ok(), "{good}");
        }
        for bad in ["f", "link", "c", "a/f", "a/f/x"] {
            assert!(tree.check_working_directory(&path(bad)).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_refused() {
        let mut deep = Seed::file("x");
        for _ in 0..17 {
            deep = Seed::directory([("n".repeat(250).as_str(), deep)]);
        }
        assert!(InputTree::new(deep.grow().await).is_err());
    }
}
