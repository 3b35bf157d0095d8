//! The fourth stage: what a survey found becomes blobs and the output fields of a result, and the blobs
//! become durable.
//!
//! Each file is hashed once, off the reactor and several at a time; what the store has already is not sent;
//! files are handed over, not copied, unless they are to be kept for people too.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use bbb_digest::{Digest, Function};
use bbb_reapi::{
    Directory, DirectoryNode, FileNode, OutputDirectoryFormat, SymlinkNode, ToProto as _,
    TreeBuilder, proto::reapi,
};
use bbb_storage::{HashedFile, Source, SourceContent, Stores};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    cleanup::SharedFolder,
    collect::{Declared, Found, OutputFile, Survey},
    error::{Error, blocking},
    scratch::Claim,
};

/// How many files are hashed in one go off the reactor, so that thousands of small ones do not cost a
/// thread's wake-up each.
const BATCH: usize = 32;

/// How many such goes run at once.
const CONCURRENT_BATCHES: usize = 4;

/// Blobs on their way into a store, each once.
#[derive(Debug, Default)]
pub(crate) struct Blobs(HashMap<Digest, Source>);

impl Blobs {
    fn add(&mut self, digest: Digest, source: impl Into<Source>) {
        self.0.entry(digest).or_insert_with(|| source.into());
    }

    /// Makes every blob durable in the store, with so many transfers at once. The room of files goes over to the store with them.
    pub(crate) async fn store(
        mut self,
        stores: &Stores,
        concurrency: usize,
        claim: Option<&Claim>,
    ) -> Result<(), Error> {
        // The empty blob is always there.
        let digests: Vec<_> = self.0.keys().filter(|digest| !digest.is_empty()).copied().collect();
        if digests.is_empty() {
            return Ok(());
        }
        let missing = stores.cas.find_missing(&digests).await;
        let missing = missing.map_err(|error| Error::fault("look for outputs", error))?;
        let sources: Vec<_> = (missing.into_iter())
            .filter_map(|digest| Some((digest, self.0.remove(&digest)?)))
            .collect();
        stream::iter(sources.into_iter().map(Ok))
            .try_for_each_concurrent(concurrency.max(1), |(digest, source)| async move {
                if let Some(claim) =
                    claim.filter(|_| matches!(source.content, SourceContent::File(_)))
                {
                    claim.hand_over(digest.size_bytes());
                }
                let stored = stores.cas.put(digest, source).await;
                stored.map_err(|error| Error::fault(format!("store the output {digest}"), error))
            })
            .await
    }
}

/// How the files of an action are hashed.
#[derive(Clone, Debug)]
pub(crate) struct Hashing {
    pub(crate) function: Function,
    /// The action's folder.
    pub(crate) folder: SharedFolder,
    /// Whether the files stay where they are, and it is a copy that is handed over.
    pub(crate) keep: bool,
}

/// The digest of a file, and the file if it is to be handed over.
type Hashed = (Digest, Option<HashedFile>);

/// Files of an action, of which as many as one go takes are hashed.
pub(crate) struct Begun {
    hashed: Vec<Hashed>,
    rest: Vec<(usize, OutputFile)>,
}

impl Hashing {
    /// Hashes the first files; blocks. For most actions these are all, so whoever is off the reactor
    /// anyhow has them hashed there.
    pub(crate) fn begin(&self, files: impl Iterator<Item = OutputFile>) -> Result<Begun, Error> {
        let mut files = files.enumerate();
        let first = files.by_ref().take(BATCH).collect();
        Ok(Begun { hashed: self.batch(first)?, rest: files.collect() })
    }

    /// Hashes the other files, and takes all of them in; their digests in order.
    pub(crate) async fn finish(
        self,
        blobs: &mut Blobs,
        begun: Begun,
    ) -> Result<Vec<Digest>, Error> {
        let mut batches = Vec::new();
        let mut files = begun.rest.into_iter();
        loop {
            let batch: Vec<_> = files.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let hashing = self.clone();
            batches.push(blocking("hash outputs", move || hashing.batch(batch)));
        }
        let others: Vec<Vec<_>> =
            stream::iter(batches).buffered(CONCURRENT_BATCHES).try_collect().await?;
        let mut digests = Vec::new();
        for (digest, file) in begun.hashed.into_iter().chain(others.into_iter().flatten()) {
            digests.push(digest);
            if let Some(file) = file {
                blobs.add(digest, file);
            }
        }
        Ok(digests)
    }

    fn batch(&self, files: Vec<(usize, OutputFile)>) -> Result<Vec<Hashed>, Error> {
        let copies = self.folder.blobs();
        if self.keep {
            std::fs::create_dir_all(&copies)
                .map_err(|error| Error::fault(format!("make {}", copies.display()), error))?;
        }
        let copy = |index| self.keep.then(|| copies.join(format!("output-{index}")));
        let hash = |(index, file)| hash_one(self.function, file, copy(index));
        files.into_iter().map(hash).collect()
    }
}

fn hash_one(function: Function, file: OutputFile, copy: Option<PathBuf>) -> Result<Hashed, Error> {
    let path = match file {
        OutputFile::Unchanged(digest) => return Ok((digest, None)),
        OutputFile::Made(path) => path,
    };
    let hashed = match copy {
        None => hash_readable(function, &path),
        Some(copy) => std::fs::copy(&path, &copy).and_then(|_| hash_readable(function, &copy)),
    };
    let hashed = hashed.map_err(|error| Error::fault(format!("hash {}", path.display()), error))?;
    Ok((hashed.digest(), Some(hashed)))
}

/// Hashes a file that its action may have made unreadable.
fn hash_readable(function: Function, path: &Path) -> io::Result<HashedFile> {
    match HashedFile::hash(function, path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            use std::os::unix::fs::PermissionsExt as _;
            // The survey saw a regular file here, and nobody is left who could change that.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o400))?;
            HashedFile::hash(function, path)
        }
        hashed => hashed,
    }
}

/// Builds the output fields of a result from what was surveyed and hashed. Trees become blobs.
pub(crate) fn assemble(
    blobs: &mut Blobs,
    function: Function,
    format: OutputDirectoryFormat,
    survey: &Survey,
    digests: &[Digest],
) -> reapi::ActionResult {
    let mut result = reapi::ActionResult::default();
    for (path, declared, found) in &survey.outputs {
        let path = String::from(&**path);
        match found {
            Found::File { index, is_executable, properties } => {
                result.output_files.push(reapi::OutputFile {
                    path,
                    digest: Some(digests[*index].to_proto()),
                    is_executable: *is_executable,
                    contents: Vec::new(),
                    node_properties: properties.to_proto(),
                });
            }
            Found::Symlink { target, properties } => {
                let symlink = reapi::OutputSymlink {
                    path,
                    target: target.clone(),
                    node_properties: properties.to_proto(),
                };
                add_symlink(&mut result, *declared, symlink);
            }
            Found::Directory { .. } => {
                let mut builder = TreeBuilder::default();
                if let Some(root) = add_directory(&mut builder, function, found, digests) {
                    let directory = output_directory(blobs, function, format, &builder, root);
                    result.output_directories.push(reapi::OutputDirectory { path, ..directory });
                }
            }
        }
    }
    result
}

/// Clients of API 2.0 know the field of the declared kind; `output_symlinks` is for `output_paths` alone
/// (comment of `ActionResult.output_symlinks`). As the kind of what `output_paths` leads to is not looked
/// at, the deprecated fields stay empty then.
#[allow(deprecated)]
fn add_symlink(
    result: &mut reapi::ActionResult,
    declared: Declared,
    symlink: reapi::OutputSymlink,
) {
    match declared {
        Declared::Path => result.output_symlinks.push(symlink),
        Declared::File => result.output_file_symlinks.push(symlink),
        Declared::Directory => result.output_directory_symlinks.push(symlink),
    }
}

/// Takes a directory and all below into the builder; its depth was bounded by the survey.
fn add_directory(
    builder: &mut TreeBuilder,
    function: Function,
    found: &Found,
    digests: &[Digest],
) -> Option<Digest> {
    let Found::Directory { entries, properties } = found else { return None };
    let mut directory = Directory { properties: *properties, ..Directory::default() };
    for (name, entry) in entries {
        let name = name.clone();
        match entry {
            Found::File { index, is_executable, properties } => directory.files.push(FileNode {
                name,
                digest: digests[*index],
                is_executable: *is_executable,
                properties: *properties,
            }),
            Found::Symlink { target, properties } => directory.symlinks.push(SymlinkNode {
                name,
                target: target.clone(),
                properties: *properties,
            }),
            Found::Directory { .. } => {
                let digest = add_directory(builder, function, entry, digests)?;
                directory.directories.push(DirectoryNode { name, digest });
            }
        }
    }
    Some(builder.add(function, directory))
}

fn output_directory(
    blobs: &mut Blobs,
    function: Function,
    format: OutputDirectoryFormat,
    builder: &TreeBuilder,
    root: Digest,
) -> reapi::OutputDirectory {
    let mut output = reapi::OutputDirectory::default();
    if matches!(format, OutputDirectoryFormat::Tree | OutputDirectoryFormat::Both) {
        let tree = builder.encode(root);
        let digest = Digest::of(function, &tree);
        blobs.add(digest, tree);
        output.tree_digest = Some(digest.to_proto());
        output.is_topologically_sorted = true;
    }
    if matches!(format, OutputDirectoryFormat::Directory | OutputDirectoryFormat::Both) {
        for (digest, encoded) in builder.directories() {
            blobs.add(digest, Bytes::copy_from_slice(encoded));
        }
        output.root_directory_digest = Some(root.to_proto());
    }
    output
}
