use std::{
    fmt,
    fs::File,
    io,
    io::Read as _,
    path::{Path, PathBuf},
};

use bbb_digest::{Digest, Function, Hasher};
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::Encoding;

/// The bytes of a blob on their way into a store.
#[derive(Debug)]
pub struct Source {
    /// How the content is encoded. The digest is always that of the decoded bytes.
    pub encoding: Encoding,
    /// The bytes.
    pub content: SourceContent,
}

/// The bytes of a blob in the form in which they are there.
pub enum SourceContent {
    /// In memory.
    Bytes(Bytes),
    /// Yet to come. An error ends the stream; without one all bytes came.
    Stream(BoxStream<'static, io::Result<Bytes>>),
    /// In a local file that the store may take over; it is unencoded.
    File(HashedFile),
}

/// A local file whose digest this process computed. Whoever makes one sees to it that nobody writes to
/// the file any more; a store may then take it over as it is.
#[derive(Clone, Debug)]
pub struct HashedFile {
    digest: Digest,
    path: PathBuf,
}

impl HashedFile {
    /// Hashes a regular file; blocks while it does. Symlinks are not followed.
    ///
    /// # Errors
    /// If the file cannot be opened or read, or is no regular file.
    pub fn hash(function: Function, path: &Path) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::NOFOLLOW
            | rustix::fs::OFlags::NONBLOCK
            | rustix::fs::OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?);
        Self::hash_open(function, file, path)
    }

    fn hash_open(function: Function, mut file: File, path: &Path) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
        }
        let mut hasher = Hasher::new(function, metadata.len());
        let mut buffer = vec![0; (metadata.len() as usize).clamp(1, 256 << 10)];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        Ok(Self { digest: hasher.finish(), path: path.to_owned() })
    }

    /// A file that the caller wrote himself and hashed while he did.
    pub fn written(digest: Digest, path: &Path) -> Self {
        Self { digest, path: path.to_owned() }
    }

    /// The digest of what the file holds.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self { encoding: Encoding::Identity, content: SourceContent::Bytes(bytes) }
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<HashedFile> for Source {
    fn from(file: HashedFile) -> Self {
        Self { encoding: Encoding::Identity, content: SourceContent::File(file) }
    }
}

impl fmt::Debug for SourceContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
            Self::File(file) => file.fmt(f),
        }
    }
}
