//! One header of a tar archive (POSIX.1-2017, pax, "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format").

use super::BLOCK_BYTES;

/// Whether the owner may execute a file.
const EXECUTABLE: u64 = 0o100;

/// What a header says.
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) size_bytes: u64,
    pub(super) executable: bool,
}

/// What a header is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    Link,
    /// A long path, by GNU.
    Path,
    /// The long target of a link, by GNU.
    Target,
    /// Records about the next entry, by POSIX.
    Records,
    /// Records about all entries.
    GlobalRecords,
    VolumeLabel,
    /// An entry that is not taken.
    Refused(&'static str),
}

impl Kind {
    fn of(flag: u8) -> Self {
        match flag {
            0 | b'0' | b'7' => Self::File,
            b'1' => Self::Link,
            b'2' => Self::Symlink,
            b'3' | b'4' => Self::Refused("is a device"),
            b'5' => Self::Directory,
            b'6' => Self::Refused("is a named pipe"),
            b'L' => Self::Path,
            b'K' => Self::Target,
            b'x' | b'X' => Self::Records,
            b'g' => Self::GlobalRecords,
            b'V' => Self::VolumeLabel,
            b'S' => Self::Refused("is a sparse file"),
            b'M' => Self::Refused("began in another volume"),
            _ => Self::Refused("is of a kind that nobody knows"),
        }
    }
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Self, &'static str> {
        if !is_sum_right(block) {
            return Err("a header of tar has a wrong checksum");
        }
        let mut path = field(&block[..100]).to_vec();
        // GNU keeps other things where POSIX has a prefix.
        let prefix = field(&block[345..500]);
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        Ok(Self {
            kind: Kind::of(block[156]),
            path,
            target: field(&block[157..257]).to_vec(),
            size_bytes: number(&block[124..136])
                .ok_or("a header of tar has a size that is none")?,
            executable: number(&block[100..108]).unwrap_or(0) & EXECUTABLE != 0,
        })
    }
}

/// Text, up to the end or a NUL.
fn field(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The sum of all bytes, those of the sum itself taken as spaces. Some have once taken bytes to be signed.
fn is_sum_right(block: &[u8; BLOCK_BYTES]) -> bool {
    let bytes = block.iter().enumerate();
    let bytes = bytes.map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let (unsigned, signed) = bytes.fold((0, 0), |(unsigned, signed), byte| {
        (unsigned + i64::from(byte), signed + i64::from(byte.cast_signed()))
    });
    let told = number(&block[148..156]).and_then(|sum| i64::try_from(sum).ok());
    told.is_some_and(|told| told == unsigned || told == signed)
}

/// A number: octal digits within spaces and NULs, or, by GNU, in base 256 behind a byte of 0x80.
fn number(bytes: &[u8]) -> Option<u64> {
    if let [0x80, number @ ..] = bytes {
        let (high, low) = number.split_at(number.len().checked_sub(8)?);
        let low = u64::from_be_bytes(low.try_into().ok()?);
        return high.iter().all(|byte| *byte == 0).then_some(low);
    }
    let text = str::from_utf8(bytes).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() {
        return Some(0);
    }
    // No sign.
    let are_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    u64::from_str_radix(text, 8).ok().filter(|_| are_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_all_their_forms() {
        for (bytes, expected) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"00000644", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777777\0", Some(0o77777777777)),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(0x2_0000_0000)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"-0000644", None),
            (b"+000644\0", None),
            (b"9\0\0\0\0\0\0\0", None),
            (b"6\x004\0\0\0\0\0", None),
        ] {
            assert_eq!(number(bytes), expected, "{bytes:?}");
        }
    }
}
