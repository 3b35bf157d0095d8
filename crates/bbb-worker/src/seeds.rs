//! Trees for tests, grown from what a test says they are.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bbb_digest::{Digest, Function, InstanceName};
use bbb_reapi::{
    Directory, DirectoryNode, FileName, FileNode, NodeProperties, SymlinkNode, ToProto as _,
};
use bbb_storage::{
    Blob, Cas, Content, Encoding, Error, Result, Source, Subtree, TreeCache, Trees, Wanted,
};
use bytes::Bytes;
use prost::Message as _;

/// What a test says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seed {
    File { content: String, is_executable: bool, properties: NodeProperties },
    Symlink { target: String, properties: NodeProperties },
    Directory { nodes: BTreeMap<String, Seed>, properties: NodeProperties },
}

impl Seed {
    pub(crate) fn file(content: &str) -> Self {
        let properties = NodeProperties::default();
        Self::File { content: content.into(), is_executable: false, properties }
    }

    pub(crate) fn symlink(target: &str) -> Self {
        Self::Symlink { target: target.into(), properties: NodeProperties::default() }
    }

    pub(crate) fn directory<'a>(nodes: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let nodes = nodes.into_iter().map(|(name, node)| (name.to_owned(), node)).collect();
        Self::Directory { nodes, properties: NodeProperties::default() }
    }

    /// The same with a time of last change of its own.
    pub(crate) fn changed_at(mut self, seconds: u64) -> Self {
        let (Self::File { properties, .. }
        | Self::Symlink { properties, .. }
        | Self::Directory { properties, .. }) = &mut self;
        properties.mtime = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        self
    }

    /// The tree at this directory, as a store gives it.
    pub(crate) async fn grow(&self) -> Arc<Subtree> {
        let mut messages = HashMap::new();
        let root = self.encode(&mut messages);
        let cas = Arc::new(Messages(Mutex::new(messages)));
        let cache = Arc::new(TreeCache::new(64 << 20));
        Trees::new(InstanceName::default(), cas, cache).subtree(root).await.unwrap()
    }

    fn encode(&self, messages: &mut HashMap<Digest, Bytes>) -> Digest {
        let Self::Directory { nodes, properties } = self else { panic!("a root is a directory") };
        let mut directory = Directory { properties: *properties, ..Directory::default() };
        for (name, node) in nodes {
            let name = FileName::new(name).unwrap();
            match node {
                Self::File { content, is_executable, properties } => {
                    let digest = Digest::of(Function::Sha256, content.as_bytes());
                    let (is_executable, properties) = (*is_executable, *properties);
                    let file = FileNode { name, digest, is_executable, properties };
                    directory.files.push(file);
                }
                Self::Symlink { target, properties } => {
                    let (target, properties) = (target.clone(), *properties);
                    directory.symlinks.push(SymlinkNode { name, target, properties });
                }
                Self::Directory { .. } => {
                    let digest = node.encode(messages);
                    directory.directories.push(DirectoryNode { name, digest });
                }
            }
        }
        let message = Bytes::from(directory.to_proto().encode_to_vec());
        let digest = Digest::of(Function::Sha256, &message);
        messages.insert(digest, message);
        digest
    }
}

/// A store that holds these blobs.
#[derive(Debug)]
struct Messages(Mutex<HashMap<Digest, Bytes>>);

#[async_trait]
impl Cas for Messages {
    async fn get(&self, digest: Digest, _: Wanted) -> Result<Blob> {
        let found = self.0.lock().unwrap().get(&digest).cloned();
        let content = Content::Bytes(found.ok_or(Error::Missing(digest))?);
        Ok(Blob { size_bytes: digest.size_bytes(), encoding: Encoding::Identity, content })
    }

    async fn put(&self, digest: Digest, _: Source) -> Result<()> {
        Err(Error::Missing(digest))
    }

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        Ok(digests.to_vec())
    }
}

impl fmt::Display for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("messages")
    }
}
