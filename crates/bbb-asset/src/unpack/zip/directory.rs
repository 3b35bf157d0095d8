//! The central directory of a zip archive, held against the headers of its files.

use std::io::{BufReader, Read};

use super::{UnpackError, evil, seek};
use crate::unpack::{Archive, layout::Layout, meter::Source};

/// How long a central directory may be, which is held in memory but for what its entries say that nobody asks for.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;

/// The end of a central directory, without its comment, which has 65,535 bytes at the most; what leads to that of zip64; that.
const END_BYTES: usize = 22;
const MAX_COMMENT_BYTES: usize = 65_535;
const LOCATOR_BYTES: usize = 20;
const END_64_BYTES: usize = 56;

/// The fixed parts of what stands in the directory for a file, and before the file.
const CENTRAL_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;

/// Flags: encrypted, a patch, encrypted strongly, with a directory that is hidden.
const REFUSED_FLAGS: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;

/// What says `u32::MAX` or `u16::MAX` stands in the extra field of this number.
const ZIP64: u16 = 1;

/// Systems whose attributes have the mode of a file: Unix and Darwin.
const MODE_SYSTEMS: [u8; 2] = [3, 19];

/// A file of an archive.
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) method: Method,
    /// Where its bytes begin, and how many there are, in the archive.
    pub(super) data_at: u64,
    pub(super) packed_bytes: u64,
    /// How many there are when it is unpacked, and their CRC-32.
    pub(super) size_bytes: u64,
    pub(super) sum: u32,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File { executable: bool },
    Directory,
    Symlink,
}

/// How its bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
}

/// What the directory says of a file, whose header is still to be looked at.
struct Central {
    entry: Entry,
    method: u16,
    header_at: u64,
}

/// Where a directory lies.
#[derive(Debug)]
struct End {
    at: u64,
    bytes: u64,
    entries: u64,
}

/// Reads the directory. Its entries come in the order in which their bytes lie in the archive.
pub(super) fn read<A: Archive>(
    archive: &mut BufReader<A>,
    archive_bytes: u64,
    layout: &Layout<'_>,
) -> Result<Vec<Entry>, UnpackError> {
    let end = find_end(archive, archive_bytes)?;
    if end.entries > layout.max_entries() as u64 {
        return Err(UnpackError::TooMuch(format!("{} entries", layout.max_entries())));
    }
    if end.bytes > MAX_DIRECTORY_BYTES {
        return Err(UnpackError::TooMuch(format!("{MAX_DIRECTORY_BYTES} bytes of names")));
    }
    seek(archive, end.at)?;
    let mut directory = Source(&mut *archive).take(end.bytes);
    let mut entries = Vec::new();
    for _ in 0..end.entries {
        entries.push(Central::read(&mut directory, layout)?);
    }
    if directory.limit() > 0 {
        return Err(UnpackError::damaged("its directory has more than it says"));
    }
    entries.sort_by_key(|central| central.header_at);
    let mut from = 0;
    for Central { entry, method, header_at } in &mut entries {
        if *header_at < from {
            return Err(evil(&entry.name, "overlaps another one"));
        }
        if *header_at >= end.at {
            return Err(evil(&entry.name, "is said to lie where nothing lies"));
        }
        entry.data_at = check_header(archive, *header_at, *method, &entry.name)?;
        from = entry.data_at.saturating_add(entry.packed_bytes);
        if from > end.at {
            return Err(evil(&entry.name, "is cut off by the directory"));
        }
    }
    Ok(entries.into_iter().map(|central| central.entry).collect())
}

/// Finds the directory by what ends the archive.
fn find_end<A: Archive>(
    archive: &mut BufReader<A>,
    archive_bytes: u64,
) -> Result<End, UnpackError> {
    let tail_bytes = archive_bytes.min((END_BYTES + MAX_COMMENT_BYTES + LOCATOR_BYTES) as u64);
    let tail_at = archive_bytes - tail_bytes;
    seek(archive, tail_at)?;
    let mut tail = vec![0; tail_bytes as usize];
    Source(&mut *archive).read_exact(&mut tail).map_err(UnpackError::of_reader)?;
    let ends_archive = |at: &usize| {
        let end = Fields(&tail[*at..]);
        end.starts_with(b"PK\x05\x06")
            && end
                .u16(20)
                .is_some_and(|comment| at + END_BYTES + usize::from(comment) == tail.len())
    };
    let at = (0..tail.len().saturating_sub(END_BYTES - 1)).rev().find(ends_archive);
    let at = at.ok_or_else(|| UnpackError::damaged("it has no end: it was cut off, or goes on"))?;
    let fields = Fields(&tail[at..]);
    let is_64 = at >= LOCATOR_BYTES && tail[at - LOCATOR_BYTES..].starts_with(b"PK\x06\x07");
    let (end, end_at) = match is_64 {
        true => {
            let locator = Fields(&tail[at - LOCATOR_BYTES..at]);
            let end_at = locator.u64(8).unwrap_or(u64::MAX);
            (read_end_64(archive, end_at, tail_at + (at - LOCATOR_BYTES) as u64)?, end_at)
        }
        false => (fields.end(), tail_at + at as u64),
    };
    let end = end.ok_or_else(|| UnpackError::damaged("it is one of several pieces"))?;
    match end.at.checked_add(end.bytes).is_some_and(|after| after <= end_at) {
        true => Ok(end),
        false => Err(UnpackError::damaged("its directory does not lie in it")),
    }
}

fn read_end_64<A: Archive>(
    archive: &mut BufReader<A>,
    at: u64,
    locator_at: u64,
) -> Result<Option<End>, UnpackError> {
    let broken = || UnpackError::damaged("the end of its directory is broken");
    if at.checked_add(END_64_BYTES as u64).is_none_or(|after| after > locator_at) {
        return Err(broken());
    }
    seek(archive, at)?;
    let mut end = [0; END_64_BYTES];
    Source(archive).read_exact(&mut end).map_err(UnpackError::of_reader)?;
    let end = Fields(&end);
    if !end.starts_with(b"PK\x06\x06") {
        return Err(broken());
    }
    Ok(end.end_64())
}

impl Central {
    fn read(directory: &mut impl Read, layout: &Layout<'_>) -> Result<Self, UnpackError> {
        let mut fixed = [0; CENTRAL_BYTES];
        directory.read_exact(&mut fixed).map_err(UnpackError::of_reader)?;
        let fixed = Fields(&fixed);
        let broken = || UnpackError::damaged("its directory is broken");
        if !fixed.starts_with(b"PK\x01\x02") {
            return Err(broken());
        }
        let len = |at| fixed.u16(at).map(usize::from).ok_or_else(broken);
        let (name_bytes, extra_bytes, comment_bytes) = (len(28)?, len(30)?, len(32)?);
        let mut rest = vec![0; name_bytes + extra_bytes + comment_bytes];
        directory.read_exact(&mut rest).map_err(UnpackError::of_reader)?;
        let name = rest[..name_bytes].to_vec();
        if name_bytes > layout.path_bytes() {
            let what = format!("has a path of more than {} bytes", layout.path_bytes());
            return Err(evil(&name, what));
        }
        let extra = &rest[name_bytes..name_bytes + extra_bytes];
        Self::parse(&fixed, name, extra)?.ok_or_else(broken)
    }

    fn parse(fixed: &Fields<'_>, name: Vec<u8>, extra: &[u8]) -> Result<Option<Self>, UnpackError> {
        let mut large = Large::of(extra);
        let read = (|| {
            let (flags, method) = (fixed.u16(8)?, fixed.u16(10)?);
            let sum = fixed.u32(16)?;
            let size_bytes = large.or(fixed.u32(24)?)?;
            let packed_bytes = large.or(fixed.u32(20)?)?;
            let header_at = large.or(fixed.u32(42)?)?;
            Some((flags, method, sum, size_bytes, packed_bytes, header_at))
        })();
        let Some((flags, method, sum, size_bytes, packed_bytes, header_at)) = read else {
            return Ok(None);
        };
        if flags & REFUSED_FLAGS != 0 {
            return Err(evil(&name, "is encrypted, or a patch"));
        }
        if name.contains(&b'\\') {
            return Err(evil(&name, "has a backslash in its name, which APPNOTE.TXT forbids"));
        }
        let known = match method {
            0 if size_bytes == packed_bytes => Method::Stored,
            0 => return Err(evil(&name, "is stored, but in another size than its own")),
            8 => Method::Deflated,
            _ => return Err(evil(&name, format!("is packed by method {method}: use deflate"))),
        };
        let kind = kind_of(fixed, &name)?;
        if kind == Kind::Directory && size_bytes > 0 {
            return Err(evil(&name, "is a directory, but has content"));
        }
        let entry = Entry { name, kind, method: known, data_at: 0, packed_bytes, size_bytes, sum };
        Ok(Some(Self { entry, method, header_at }))
    }
}

/// What an entry is, by its name and by the attributes of the system on which it was packed.
fn kind_of(fixed: &Fields<'_>, name: &[u8]) -> Result<Kind, UnpackError> {
    let has_mode = fixed.0.get(5).is_some_and(|system| MODE_SYSTEMS.contains(system));
    let mode = match has_mode {
        true => fixed.u32(38).unwrap_or(0) >> 16,
        false => 0,
    };
    let is_directory = name.ends_with(b"/");
    match mode & 0o170_000 {
        0 | 0o100_000 if is_directory => Ok(Kind::Directory),
        0o040_000 => Ok(Kind::Directory),
        0 | 0o100_000 if !is_directory => Ok(Kind::File { executable: mode & 0o100 != 0 }),
        0o120_000 if !is_directory => Ok(Kind::Symlink),
        _ => Err(evil(name, "is neither file, directory nor symbolic link")),
    }
}

/// Holds the header before a file against the directory; tells where its bytes begin.
fn check_header<A: Archive>(
    archive: &mut BufReader<A>,
    at: u64,
    method: u16,
    name: &[u8],
) -> Result<u64, UnpackError> {
    seek(archive, at)?;
    let mut source = Source(archive);
    let mut fixed = [0; LOCAL_BYTES];
    source.read_exact(&mut fixed).map_err(UnpackError::of_reader)?;
    let fixed = Fields(&fixed);
    let name_bytes = fixed.u16(26).unwrap_or(0);
    let extra_bytes = fixed.u16(28).unwrap_or(0);
    let mut own_name = vec![0; usize::from(name_bytes)];
    source.read_exact(&mut own_name).map_err(UnpackError::of_reader)?;
    if !fixed.starts_with(b"PK\x03\x04") || own_name != name || fixed.u16(8) != Some(method) {
        return Err(evil(name, "is another one where it lies than in the directory"));
    }
    if fixed.u16(6).is_none_or(|flags| flags & REFUSED_FLAGS != 0) {
        return Err(evil(name, "is encrypted, or a patch"));
    }
    Ok(at + LOCAL_BYTES as u64 + u64::from(name_bytes) + u64::from(extra_bytes))
}

/// Values of zip64, which stand in the order of those whose place they take.
struct Large<'a>(Fields<'a>);

impl<'a> Large<'a> {
    fn of(mut extra: &'a [u8]) -> Self {
        loop {
            let fields = Fields(extra);
            let (Some(number), Some(len)) = (fields.u16(0), fields.u16(2)) else {
                return Self(Fields(&[]));
            };
            let Some(value) = extra.get(4..4 + usize::from(len)) else {
                return Self(Fields(&[]));
            };
            if number == ZIP64 {
                return Self(Fields(value));
            }
            extra = &extra[4 + usize::from(len)..];
        }
    }

    /// A value, or the one that stands here for it.
    fn or(&mut self, value: u32) -> Option<u64> {
        if value != u32::MAX {
            return Some(value.into());
        }
        let large = self.0.u64(0)?;
        self.0 = Fields(&self.0.0[8..]);
        Some(large)
    }
}

/// Numbers within bytes, the lowest byte first.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn starts_with(&self, start: &[u8]) -> bool {
        self.0.starts_with(start)
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// The end of a directory, unless it is that of one in pieces.
    fn end(&self) -> Option<End> {
        let (disk, start_disk, here) = (self.u16(4)?, self.u16(6)?, self.u16(8)?);
        let entries = self.u16(10)?;
        let is_whole = disk == 0 && start_disk == 0 && here == entries;
        let (bytes, at) = (self.u32(12)?.into(), self.u32(16)?.into());
        is_whole.then_some(End { at, bytes, entries: entries.into() })
    }

    /// The same of zip64.
    fn end_64(&self) -> Option<End> {
        let (disk, start_disk, here) = (self.u32(16)?, self.u32(20)?, self.u64(24)?);
        let entries = self.u64(32)?;
        let is_whole = disk == 0 && start_disk == 0 && here == entries;
        is_whole.then_some(End { at: self.u64(48)?, bytes: self.u64(40)?, entries })
    }
}
