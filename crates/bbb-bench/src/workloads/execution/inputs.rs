//! Actions with many input files, of which one changes from action to action, as after an edit.
//!
//! Files lie 20 to a directory, directories 50 to a parent, so that a change touches a leaf, its parent and the root.

use std::sync::Arc;

use async_trait::async_trait;
use bbb_reapi::proto::reapi::{Directory, DirectoryNode, FileNode};
use tokio::sync::OnceCell;

use super::{Maker, execute, stdout};
use crate::digest::Digest;
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::payload::{Blob, Texture};
use crate::target::Target;

const FILES_EACH: usize = 20;
const LEAVES_EACH: usize = 50;
const FILE_BYTES: usize = 512;
/// Where the file that changes lies.
const CHANGED: &str = "parent-00/leaf-00/file-00";

/// Each call executes an action whose input tree differs from the others' in one file.
pub(super) struct Inputs {
    maker: Maker,
    files: usize,
    base: OnceCell<Base>,
}

/// The tree that all actions share, and its directories on the way to the file that changes.
struct Base {
    blobs: Vec<Blob>,
    root: Directory,
    parent: Directory,
    leaf: Directory,
}

impl Inputs {
    pub(super) fn new(maker: &Maker, files: usize) -> Self {
        Self { maker: maker.clone(), files, base: OnceCell::new() }
    }

    fn base(&self) -> Base {
        let mould = self.maker.source.mould(Texture::Random, FILE_BYTES);
        let mut blobs = Vec::new();
        let mut leaves = Vec::new();
        for _ in 0..self.files.div_ceil(FILES_EACH) {
            let files: Vec<Blob> = (0..FILES_EACH).map(|_| mould.blob()).collect();
            let leaf = Directory {
                files: files.iter().enumerate().map(|(i, blob)| file(i, &blob.digest)).collect(),
                ..Directory::default()
            };
            blobs.extend(files);
            leaves.push(leaf);
        }
        let parents: Vec<Directory> = leaves
            .chunks(LEAVES_EACH)
            .map(|leaves| self.directory("leaf", leaves, &mut blobs))
            .collect();
        let root = self.directory("parent", &parents, &mut blobs);
        blobs.push(self.maker.blob(&root));
        let first = |directories: &[Directory]| directories.first().cloned().unwrap_or_default();
        Base { blobs, root, parent: first(&parents), leaf: first(&leaves) }
    }

    /// The directory that holds `children`, whose blobs are added to `blobs`.
    fn directory(&self, kind: &str, children: &[Directory], blobs: &mut Vec<Blob>) -> Directory {
        let mut directories = Vec::new();
        for (index, child) in children.iter().enumerate() {
            let blob = self.maker.blob(child);
            let digest = Some(blob.digest.clone());
            directories.push(DirectoryNode { name: format!("{kind}-{index:02}"), digest });
            blobs.push(blob);
        }
        Directory { directories, ..Directory::default() }
    }

    /// The blobs of an action with another first file: the action, the file, and three directories.
    fn changed(&self, base: &Base, command: &Blob) -> [Blob; 5] {
        let content = self.maker.source.fresh_blob();
        let mut leaf = base.leaf.clone();
        leaf.files[0].digest = Some(content.digest.clone());
        let leaf = self.maker.blob(&leaf);
        let mut parent = base.parent.clone();
        parent.directories[0].digest = Some(leaf.digest.clone());
        let parent = self.maker.blob(&parent);
        let mut root = base.root.clone();
        root.directories[0].digest = Some(parent.digest.clone());
        let root = self.maker.blob(&root);
        let action = self.maker.action(command, &root.digest);
        [action, content, leaf, parent, root]
    }
}

fn file(index: usize, digest: &Digest) -> FileNode {
    FileNode {
        name: format!("file-{index:02}"),
        digest: Some(digest.clone()),
        ..FileNode::default()
    }
}

/// Actions, and what each must print.
struct InputsCalls(Vec<(Digest, Digest)>);

#[async_trait]
impl Workload for Inputs {
    async fn prepare(&self, target: &Target, plan: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let base = self.base.get_or_init(async || self.base()).await;
        let command = self.maker.command(&["/bin/cat", CHANGED], &[]);
        target.upload(&base.blobs).await?;
        target.upload(std::slice::from_ref(&command)).await?;
        let mut actions = Vec::new();
        let mut blobs = Vec::new();
        for _ in 0..plan.calls {
            let changed = self.changed(base, &command);
            actions.push((changed[0].digest.clone(), changed[1].digest.clone()));
            blobs.extend(changed);
        }
        target.upload(&blobs).await?;
        Ok(Arc::new(InputsCalls(actions)))
    }
}

#[async_trait]
impl Calls for InputsCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let (action, content) = &self.0[index as usize];
        let response = execute(target, action).await?;
        if stdout(target, &response).as_ref() == Some(content) && !response.cached_result {
            return Ok(0);
        }
        Err(Failure::wrong("the action did not see the file that changed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Source;
    use bbb_digest::Function;

    #[test]
    fn a_change_touches_one_path_only() {
        let source = Arc::new(Source::new(Function::Sha256));
        let inputs = Inputs::new(&Maker { source, platform: None }, 10_000);
        let base = inputs.base();
        assert_eq!(base.blobs.len(), 10_000 + 500 + 10 + 1);
        let command = inputs.maker.command(&["/bin/cat", CHANGED], &[]);
        let [_, content, leaf, ..] = inputs.changed(&base, &command);
        let leaf: Directory = prost::Message::decode(leaf.to_vec().as_slice()).unwrap();
        assert_eq!(leaf.files[0].digest, Some(content.digest));
        assert_eq!(leaf.files[1..], base.leaf.files[1..]);
        assert_eq!(CHANGED.split('/').next_back(), Some(leaf.files[0].name.as_str()));
    }
}
