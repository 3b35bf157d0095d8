//! Archives as nobody would make them in good faith, and some as everybody does.

use std::io::Write as _;

use flate2::{Compression, Crc, write};

/// One entry of a tar archive, with all that belongs to it.
pub(super) type Block = Vec<u8>;

/// A header, whose checksum is right.
pub(super) fn header(kind: u8, name: &[u8], target: &[u8], size_bytes: u64) -> Block {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name);
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{size_bytes:011o}\0").as_bytes());
    header[156] = kind;
    header[157..157 + target.len()].copy_from_slice(target);
    header[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut header);
    header
}

/// Makes the checksum of a header right.
pub(super) fn sum(header: &mut [u8]) {
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header[..512].iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A header, and content.
pub(super) fn entry(kind: u8, name: &[u8], target: &[u8], content: &[u8]) -> Block {
    let mut entry = header(kind, name, target, content.len() as u64);
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

pub(super) fn file(name: &str, content: &[u8]) -> Block {
    entry(b'0', name.as_bytes(), b"", content)
}

pub(super) fn directory(name: &str) -> Block {
    entry(b'5', name.as_bytes(), b"", b"")
}

pub(super) fn symlink(name: &str, target: &str) -> Block {
    entry(b'2', name.as_bytes(), target.as_bytes(), b"")
}

pub(super) fn link(name: &str, target: &str) -> Block {
    entry(b'1', name.as_bytes(), target.as_bytes(), b"")
}

/// Records of pax about the next entry.
pub(super) fn records(records: &[(&str, &str)]) -> Block {
    let mut text = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let len = (rest..).find(|len| len - len.to_string().len() == rest).unwrap();
        text.push_str(&format!("{len} {key}={value}\n"));
    }
    entry(b'x', b"PaxHeaders/x", b"", text.as_bytes())
}

/// An archive of some entries.
pub(super) fn tar(entries: &[Block]) -> Vec<u8> {
    let mut archive = entries.concat();
    archive.resize(archive.len() + 1024, 0);
    archive
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// One file of a zip archive, in which everything can be wrong.
#[derive(Clone)]
pub(super) struct Zipped {
    pub(super) name: Vec<u8>,
    /// What the header before the file calls it.
    pub(super) local_name: Vec<u8>,
    pub(super) method: u16,
    pub(super) flags: u16,
    pub(super) packed: Vec<u8>,
    pub(super) size_bytes: u32,
    pub(super) sum: u32,
    pub(super) mode: u32,
    /// Whose bytes it has, of those before.
    pub(super) at_of: Option<usize>,
    pub(super) extra: Vec<u8>,
}

pub(super) fn stored(name: &str, content: &[u8]) -> Zipped {
    let mut sum = Crc::new();
    sum.update(content);
    Zipped {
        name: name.into(),
        local_name: name.into(),
        method: 0,
        flags: 0,
        packed: content.into(),
        size_bytes: content.len() as u32,
        sum: sum.sum(),
        mode: 0o100_644,
        at_of: None,
        extra: Vec::new(),
    }
}

pub(super) fn deflated(name: &str, content: &[u8]) -> Zipped {
    let mut encoder = write::DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    Zipped { method: 8, packed: encoder.finish().unwrap(), ..stored(name, content) }
}

pub(super) fn zip(files: &[Zipped]) -> Vec<u8> {
    let (mut archive, mut central, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    let u16 = |value: usize| (value as u16).to_le_bytes();
    let u32 = |value: usize| (value as u32).to_le_bytes();
    for file in files {
        let sizes = [file.sum.to_le_bytes(), u32(file.packed.len()), file.size_bytes.to_le_bytes()]
            .concat();
        let common = [file.flags.to_le_bytes(), file.method.to_le_bytes(), [0; 2], [0; 2]].concat();
        let at = file.at_of.map_or(archive.len(), |of| starts[of]);
        starts.push(at);
        if file.at_of.is_none() {
            archive.extend_from_slice(b"PK\x03\x04\x14\0");
            archive.extend_from_slice(&common);
            archive.extend_from_slice(&sizes);
            archive.extend_from_slice(&[u16(file.local_name.len()), u16(0)].concat());
            archive.extend_from_slice(&file.local_name);
            archive.extend_from_slice(&file.packed);
        }
        central.extend_from_slice(b"PK\x01\x02\x14\x03\x14\0");
        central.extend_from_slice(&common);
        central.extend_from_slice(&sizes);
        central.extend_from_slice(&[u16(file.name.len()), u16(file.extra.len())].concat());
        central.extend_from_slice(&[0; 6]);
        central.extend_from_slice(&(file.mode << 16).to_le_bytes());
        central.extend_from_slice(&u32(at));
        central.extend_from_slice(&file.name);
        central.extend_from_slice(&file.extra);
    }
    let (at, count) = (archive.len(), u16(files.len()));
    archive.extend_from_slice(&central);
    archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    archive.extend_from_slice(&[count, count].concat());
    archive.extend_from_slice(&[u32(central.len()), u32(at)].concat());
    archive.extend_from_slice(&[0, 0]);
    archive
}
