use std::{collections::HashSet, time::SystemTime};

use bbb_digest::{Digest, Function};
use prost::Message as _;

use crate::{
    FileName, Invalid, ToProto, parts, proto::protobuf, proto::reapi, required_digest, time,
};

/// One directory of a file tree. Names are unique within it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The files.
    pub files: Vec<FileNode>,
    /// The directories below.
    pub directories: Vec<DirectoryNode>,
    /// The symbolic links.
    pub symlinks: Vec<SymlinkNode>,
    /// Properties of the directory itself.
    pub properties: NodeProperties,
}

/// A file of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNode {
    /// Its name.
    pub name: FileName,
    /// What it holds.
    pub digest: Digest,
    /// Whether it can be executed.
    pub is_executable: bool,
    /// Its properties.
    pub properties: NodeProperties,
}

/// A directory below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryNode {
    /// Its name.
    pub name: FileName,
    /// The digest of its encoded [`Directory`].
    pub digest: Digest,
}

/// A symbolic link of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymlinkNode {
    /// Its name.
    pub name: FileName,
    /// Where it points: relative or absolute, dangling or not, never empty.
    pub target: String,
    /// Its properties.
    pub properties: NodeProperties,
}

/// What is known of a node beside its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeProperties {
    /// Permission bits, at most `0o777`.
    pub unix_mode: Option<u32>,
    /// When it was last changed.
    pub mtime: Option<SystemTime>,
}

impl Directory {
    /// Reads an encoded directory whose digests belong to `function`.
    ///
    /// Entries need not be sorted, though the API asks clients for it: what matters here is that
    /// names are plain and unique.
    ///
    /// # Errors
    /// If it cannot be decoded, a name is hostile or stands twice, or a digest is wrong.
    pub fn decode(function: Function, bytes: &[u8]) -> Result<Self, Invalid> {
        parts::check_stored(parts::DIRECTORY, bytes)?;
        let directory = reapi::Directory::decode(bytes).map_err(|error| {
            Invalid::new("directory", format!("is no Directory message: {error}"))
        })?;
        Self::parse(function, directory)
    }

    /// Checks a decoded directory, as [`Directory::decode`] does.
    ///
    /// # Errors
    /// If a name is hostile or stands twice, or a digest is wrong.
    pub fn parse(function: Function, directory: reapi::Directory) -> Result<Self, Invalid> {
        let parsed = Self {
            files: parse_all("files", directory.files, |file| FileNode::parse(function, file))?,
            directories: parse_all("directories", directory.directories, |node| {
                DirectoryNode::parse(function, &node)
            })?,
            symlinks: parse_all("symlinks", directory.symlinks, SymlinkNode::parse)?,
            properties: NodeProperties::parse(directory.node_properties.as_ref())?,
        };
        let mut names = HashSet::new();
        let twice = parsed.names().find(|name| !names.insert(name.as_str()));
        if let Some(twice) = twice {
            return Err(Invalid::new("directory", format!("the name {twice:?} stands twice")));
        }
        Ok(parsed)
    }

    /// The name of every entry.
    pub fn names(&self) -> impl Iterator<Item = &FileName> {
        let files = self.files.iter().map(|node| &node.name);
        let directories = self.directories.iter().map(|node| &node.name);
        files.chain(directories).chain(self.symlinks.iter().map(|node| &node.name))
    }

    /// Brings the entries into the order that the API asks for.
    pub fn sort(&mut self) {
        self.files.sort_by(|a, b| a.name.cmp(&b.name));
        self.directories.sort_by(|a, b| a.name.cmp(&b.name));
        self.symlinks.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

fn parse_all<W, T>(
    field: &str,
    nodes: Vec<W>,
    parse: impl Fn(W) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    nodes
        .into_iter()
        .enumerate()
        .map(|(index, node)| {
            parse(node).map_err(|error| error.within(&format!("{field}[{index}]")))
        })
        .collect()
}

impl FileNode {
    fn parse(function: Function, node: reapi::FileNode) -> Result<Self, Invalid> {
        Ok(Self {
            name: FileName::new(&node.name)?,
            digest: required_digest(function, "digest", node.digest.as_ref())?,
            is_executable: node.is_executable,
            properties: NodeProperties::parse(node.node_properties.as_ref())?,
        })
    }
}

impl DirectoryNode {
    fn parse(function: Function, node: &reapi::DirectoryNode) -> Result<Self, Invalid> {
        Ok(Self {
            name: FileName::new(&node.name)?,
            digest: required_digest(function, "digest", node.digest.as_ref())?,
        })
    }
}

impl SymlinkNode {
    fn parse(node: reapi::SymlinkNode) -> Result<Self, Invalid> {
        if node.target.is_empty() || node.target.contains('\0') || node.target.len() > 4095 {
            return Err(Invalid::new("target", "is empty, holds NUL or has over 4,095 bytes"));
        }
        Ok(Self {
            name: FileName::new(&node.name)?,
            target: node.target,
            properties: NodeProperties::parse(node.node_properties.as_ref())?,
        })
    }
}

impl NodeProperties {
    fn parse(properties: Option<&reapi::NodeProperties>) -> Result<Self, Invalid> {
        let Some(properties) = properties else { return Ok(Self::default()) };
        let mtime = properties.mtime.as_ref().map(time::timestamp).transpose();
        Ok(Self {
            unix_mode: properties.unix_mode.as_ref().map(|mode| mode.value & 0o777),
            mtime: mtime.map_err(|invalid| Invalid::new("node_properties.mtime", invalid.what))?,
        })
    }

    /// The wire form; none where nothing is known.
    pub fn to_proto(self) -> Option<reapi::NodeProperties> {
        (self != Self::default()).then(|| reapi::NodeProperties {
            properties: Vec::new(),
            mtime: self.mtime.map(time::to_timestamp),
            unix_mode: self.unix_mode.map(|value| protobuf::UInt32Value { value }),
        })
    }
}

impl ToProto for Directory {
    type Proto = reapi::Directory;

    fn to_proto(&self) -> reapi::Directory {
        let files = self.files.iter().map(|node| reapi::FileNode {
            name: node.name.as_str().to_owned(),
            digest: Some(node.digest.to_proto()),
            is_executable: node.is_executable,
            node_properties: node.properties.to_proto(),
        });
        let directories = self.directories.iter().map(|node| reapi::DirectoryNode {
            name: node.name.as_str().to_owned(),
            digest: Some(node.digest.to_proto()),
        });
        let symlinks = self.symlinks.iter().map(|node| reapi::SymlinkNode {
            name: node.name.as_str().to_owned(),
            target: node.target.clone(),
            node_properties: node.properties.to_proto(),
        });
        reapi::Directory {
            files: files.collect(),
            directories: directories.collect(),
            symlinks: symlinks.collect(),
            node_properties: self.properties.to_proto(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> reapi::FileNode {
        let digest = Some(Digest::of(Function::Sha256, b"x").to_proto());
        reapi::FileNode { name: name.into(), digest, ..Default::default() }
    }

    fn symlink(name: &str, target: &str) -> reapi::SymlinkNode {
        reapi::SymlinkNode { name: name.into(), target: target.into(), ..Default::default() }
    }

    fn parse(directory: reapi::Directory) -> Result<Directory, Invalid> {
        Directory::decode(Function::Sha256, &directory.encode_to_vec())
    }

    #[test]
    fn what_was_read_is_written_the_same() {
        let directory = reapi::Directory {
            files: vec![file("a"), file("b")],
            symlinks: vec![symlink("l", "../outside"), symlink("m", "/absolute")],
            node_properties: Some(reapi::NodeProperties {
                unix_mode: Some(protobuf::UInt32Value { value: 0o755 }),
                mtime: Some(protobuf::Timestamp { seconds: 1, nanos: 2 }),
                properties: vec![],
            }),
            ..Default::default()
        };
        assert_eq!(parse(directory.clone()).unwrap().to_proto(), directory);
    }

    #[test]
    fn hostile_names_are_refused_and_named() {
        for name in ["..", ".", "", "a/b", "/etc/passwd", "a\0b"] {
            let files = vec![file("fine"), file(name)];
            let invalid = parse(reapi::Directory { files, ..Default::default() }).unwrap_err();
            assert_eq!(invalid.field, "files[1].name");
        }
        let symlinks = vec![symlink("l", "")];
        let invalid = parse(reapi::Directory { symlinks, ..Default::default() }).unwrap_err();
        assert_eq!(invalid.field, "symlinks[0].target");
    }

    #[test]
    fn a_name_stands_once() {
        let directory = reapi::Directory {
            files: vec![file("a")],
            symlinks: vec![symlink("a", "b")],
            ..Default::default()
        };
        assert!(parse(directory).unwrap_err().what.contains("twice"));
    }
}
