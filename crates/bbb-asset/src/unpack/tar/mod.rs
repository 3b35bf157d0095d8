//! Tar archives: v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU.
//!
//! An archive ends with a block of zeros: without one it was cut off. What comes behind is read, since a packer's checksum may come
//! last, and is nothing, as for every tar. Sparse files, devices, and volumes of a larger archive are refused.

mod header;
mod pax;

use std::io::{self, Read};

use super::{
    UnpackError,
    layout::{Layout, evil},
};
use header::{Header, Kind};

/// What everything in an archive is a multiple of.
pub(super) const BLOCK_BYTES: usize = 512;

/// The longest extension of a header, in bytes: a name, or records of which attributes are the largest.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Whether these bytes are the first block of an archive, which may be empty.
pub(super) fn is_begun_by(start: &[u8]) -> bool {
    start.first_chunk().is_some_and(|block| is_end(block) || Header::parse(block).is_ok())
}

fn is_end(block: &[u8; BLOCK_BYTES]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// What headers said that come before the one of an entry.
#[derive(Default)]
struct Extensions {
    pax: pax::Records,
    gnu_path: Option<Vec<u8>>,
    gnu_target: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax == pax::Records::default() && self.gnu_path.is_none() && self.gnu_target.is_none()
    }
}

/// Lays out what is in an archive. All errors of `archive` are those of [`UnpackError::of_reader`].
pub(super) fn unpack(mut archive: impl Read, layout: &mut Layout<'_>) -> Result<(), UnpackError> {
    let mut extensions = Extensions::default();
    let mut before = b"".to_vec();
    loop {
        let block = read_block(&mut archive).map_err(|error| after(error, &before))?;
        if is_end(&block) {
            break;
        }
        let header = Header::parse(&block).map_err(|what| match before.is_empty() {
            true => UnpackError::Format(what),
            false => after(UnpackError::damaged(what), &before),
        })?;
        match header.kind {
            Kind::Path => {
                extensions.gnu_path = Some(text(read_extension(&mut archive, &header)?));
            }
            Kind::Target => {
                extensions.gnu_target = Some(text(read_extension(&mut archive, &header)?));
            }
            Kind::Records => {
                let records = read_extension(&mut archive, &header)?;
                extensions.pax.read(&records).map_err(|what| evil(&header.path, what))?;
            }
            Kind::GlobalRecords => {
                let mut records = pax::Records::default();
                records
                    .read(&read_extension(&mut archive, &header)?)
                    .map_err(|what| evil(&header.path, what))?;
                if records != pax::Records::default() {
                    return Err(evil(&header.path, "names what all entries are to be called"));
                }
            }
            Kind::VolumeLabel => {
                skip(&mut Body::new(&mut archive, header.size_bytes))?;
            }
            _ => {
                before = entry(&mut archive, header, std::mem::take(&mut extensions), layout)?;
            }
        }
    }
    if !extensions.is_empty() {
        return Err(UnpackError::damaged("it ends before an entry that was announced"));
    }
    io::copy(&mut archive, &mut io::sink()).map_err(UnpackError::of_reader)?;
    Ok(())
}

/// Lays one entry out, and gives its name back.
fn entry(
    archive: &mut impl Read,
    header: Header,
    extensions: Extensions,
    layout: &mut Layout<'_>,
) -> Result<Vec<u8>, UnpackError> {
    let path = extensions.pax.path.or(extensions.gnu_path).unwrap_or(header.path);
    let target = extensions.pax.target.or(extensions.gnu_target).unwrap_or(header.target);
    let size_bytes = extensions.pax.size_bytes.unwrap_or(header.size_bytes);
    // Before POSIX, a directory was a file with a slash.
    let kind = match header.kind {
        Kind::File if path.ends_with(b"/") => Kind::Directory,
        kind => kind,
    };
    if kind != Kind::File && size_bytes > 0 {
        return Err(evil(&path, "has content, though it is no file"));
    }
    match kind {
        Kind::File => {
            let body = &mut Body::new(archive, size_bytes);
            let laid = layout.file(&path, header.executable, body);
            laid.and_then(|()| skip(body)).map_err(|error| within(error, &path))?;
        }
        Kind::Directory => layout.directory(&path)?,
        Kind::Symlink => layout.symlink(&path, &target)?,
        Kind::Link => layout.link(&path, &target)?,
        Kind::Refused(what) => return Err(evil(&path, what)),
        // They say something of an entry, and are none.
        Kind::Path | Kind::Target | Kind::Records | Kind::GlobalRecords | Kind::VolumeLabel => {}
    }
    Ok(path)
}

fn read_block(archive: &mut impl Read) -> Result<[u8; BLOCK_BYTES], UnpackError> {
    let mut block = [0; BLOCK_BYTES];
    archive.read_exact(&mut block).map_err(UnpackError::of_reader)?;
    Ok(block)
}

fn read_extension(archive: &mut impl Read, header: &Header) -> Result<Vec<u8>, UnpackError> {
    if header.size_bytes > MAX_EXTENSION_BYTES {
        let what = format!("{MAX_EXTENSION_BYTES} bytes in the header of one entry");
        return Err(UnpackError::TooMuch(what));
    }
    let mut bytes = Vec::new();
    let body = &mut Body::new(archive, header.size_bytes);
    body.read_to_end(&mut bytes).map_err(UnpackError::of_reader)?;
    skip(body)?;
    Ok(bytes)
}

/// Text that NUL ends.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    bytes
}

/// Reads what is left of a body, and what fills its last block.
fn skip<R: Read>(body: &mut Body<'_, R>) -> Result<(), UnpackError> {
    io::copy(body, &mut io::sink()).map_err(UnpackError::of_reader)?;
    let mut padding = [0; BLOCK_BYTES];
    let padding = &mut padding[..body.padding_bytes];
    body.archive.read_exact(padding).map_err(UnpackError::of_reader)
}

/// The content of an entry. The archive does not end within.
struct Body<'a, R> {
    archive: &'a mut R,
    left_bytes: u64,
    padding_bytes: usize,
}

impl<'a, R: Read> Body<'a, R> {
    fn new(archive: &'a mut R, size_bytes: u64) -> Self {
        let over = (size_bytes % BLOCK_BYTES as u64) as usize;
        let padding_bytes = if over == 0 { 0 } else { BLOCK_BYTES - over };
        Self { archive, left_bytes: size_bytes, padding_bytes }
    }
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.left_bytes.min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.archive.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(UnpackError::damaged("it ends too early").into_io());
        }
        self.left_bytes -= count as u64;
        Ok(count)
    }
}

/// Says where an archive is damaged.
fn after(error: UnpackError, before: &[u8]) -> UnpackError {
    match error {
        UnpackError::Damaged(what) if !before.is_empty() => {
            let before = String::from_utf8_lossy(before);
            UnpackError::Damaged(format!("behind the entry {before:?}: {what}"))
        }
        error => error,
    }
}

fn within(error: UnpackError, name: &[u8]) -> UnpackError {
    match error {
        UnpackError::Damaged(what) => {
            let name = String::from_utf8_lossy(name);
            UnpackError::Damaged(format!("within the entry {name:?}: {what}"))
        }
        error => error,
    }
}
