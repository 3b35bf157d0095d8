use std::{cmp, fmt, hash, str, sync::LazyLock};

use crate::{Function, Hasher};

/// The largest blob that can be named, in bytes: 1 TiB. A digest that claims more is refused, so that
/// nobody reserves room for sizes that no store holds.
pub const MAX_BLOB_SIZE_BYTES: u64 = 1 << 40;

const MAX_HASH_LEN: usize = 64;

/// What names a blob: a digest function, the hash that it gave, and the size of the blob in bytes.
#[derive(Clone, Copy)]
pub struct Digest {
    hash: [u8; MAX_HASH_LEN],
    size_bytes: u64,
    function: Function,
}

/// Why something is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The hash has another length than its function gives.
    #[error("hash has {found} characters, but {function} gives {expected}")]
    HashLength {
        /// The function in question.
        function: Function,
        /// Hexadecimal digits of a hash of this function.
        expected: usize,
        /// Characters that were given.
        found: usize,
    },
    /// A character of the hash is no lowercase hexadecimal digit.
    #[error("hash is not lowercase hexadecimal")]
    NotHexadecimal,
    /// The size is negative or larger than any blob may be.
    #[error("size {0} is not between 0 and {MAX_BLOB_SIZE_BYTES} bytes")]
    Size(i64),
}

impl Digest {
    /// The digest of `data`.
    pub fn of(function: Function, data: &[u8]) -> Self {
        let mut hasher = Hasher::new(function, data.len() as u64);
        hasher.update(data);
        hasher.finish()
    }

    /// The digest of the empty blob, which every store has at all times.
    pub fn empty(function: Function) -> Self {
        Self::of(function, &[])
    }

    /// Reads a digest as messages and resource names carry it.
    ///
    /// # Errors
    /// If the hash is not the lowercase hexadecimal form of a hash of `function`, or the size is out of
    /// range.
    pub fn parse(function: Function, hex: &str, size_bytes: i64) -> Result<Self, DigestError> {
        let expected = function.hash_len() * 2;
        if hex.len() != expected {
            let found = hex.chars().count();
            return Err(DigestError::HashLength { function, expected, found });
        }
        let hash = parse_hex(hex.as_bytes()).ok_or(DigestError::NotHexadecimal)?;
        let size = u64::try_from(size_bytes).ok().filter(|size| *size <= MAX_BLOB_SIZE_BYTES);
        let size_bytes = size.ok_or(DigestError::Size(size_bytes))?;
        Ok(Self { hash, size_bytes, function })
    }

    /// A digest from the bytes of its hash, as index files keep it.
    ///
    /// # Errors
    /// If the hash has not the length that `function` gives, or the size is out of range.
    pub fn from_raw(function: Function, hash: &[u8], size_bytes: u64) -> Result<Self, DigestError> {
        let expected = function.hash_len();
        if hash.len() != expected {
            let (expected, found) = (expected * 2, hash.len() * 2);
            return Err(DigestError::HashLength { function, expected, found });
        }
        match size_bytes {
            0..=MAX_BLOB_SIZE_BYTES => Ok(Self::from_hash(function, hash, size_bytes)),
            _ => Err(DigestError::Size(i64::try_from(size_bytes).unwrap_or(i64::MAX))),
        }
    }

    /// A digest from what a hasher gave. `hash` has the length of the function's hashes.
    pub(crate) fn from_hash(function: Function, hash: &[u8], size_bytes: u64) -> Self {
        let mut padded = [0; MAX_HASH_LEN];
        padded[..hash.len()].copy_from_slice(hash);
        Self { hash: padded, size_bytes, function }
    }

    /// The function that gave the hash.
    pub const fn function(&self) -> Function {
        self.function
    }

    /// The size of the blob in bytes.
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The hash, as long as its function gives it.
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.function.hash_len()]
    }

    /// Whether this names the empty blob. One of no bytes with any other hash names nothing that there can be.
    pub fn is_empty(&self) -> bool {
        static EMPTY: LazyLock<[Digest; Function::ALL.len()]> =
            LazyLock::new(|| Function::ALL.map(Digest::empty));
        self.size_bytes == 0 && EMPTY.contains(self)
    }

    /// The hash in lowercase hexadecimal.
    pub fn hex(&self) -> Hex {
        let mut digits = [0; MAX_HASH_LEN * 2];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.hash()) {
            pair[0] = HEX_DIGITS[usize::from(byte >> 4)];
            pair[1] = HEX_DIGITS[usize::from(byte & 15)];
        }
        Hex { digits, len: self.function.hash_len() * 2 }
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The bytes that lowercase hexadecimal digits stand for, at most as many as a hash has. Lists of thousands of
/// digests come in, so that eight digits are read at a time and only the whole is judged.
fn parse_hex(hex: &[u8]) -> Option<[u8; MAX_HASH_LEN]> {
    let mut hash = [0; MAX_HASH_LEN];
    let (eights, rest) = hex.as_chunks::<8>();
    let mut last = [HEX_DIGITS[0]; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut wrong = 0;
    // Digits that do not fill the last eight end in zeros, as does the hash.
    for (bytes, digits) in hash.as_chunks_mut::<4>().0.iter_mut().zip(eights.iter().chain([&last]))
    {
        *bytes = parse_eight(*digits, &mut wrong);
    }
    (wrong == 0).then_some(hash)
}

/// The bytes that eight digits stand for. Sets bits of `wrong` if one is no lowercase hexadecimal digit.
fn parse_eight(digits: [u8; 8], wrong: &mut u64) -> [u8; 4] {
    /// A one in each byte.
    const EACH: u64 = 0x0101_0101_0101_0101;
    let text = u64::from_le_bytes(digits);
    // Letters have this bit, and their lower bits begin at 1.
    let values = (text & (0x0f * EACH)) + 9 * (text >> 6 & EACH);
    // What is a digit is printed as it was read, and has a value below 16.
    let letters = (values + 6 * EACH) >> 4 & EACH;
    let printed = values + u64::from(b'0') * EACH + u64::from(b'a' - b'0' - 10) * letters;
    *wrong |= printed ^ text | values & (0xf0 * EACH);
    // Two values make a byte, and every other byte is one of these.
    let pairs = (values << 4 | values >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    ((fours | fours >> 16) as u32).to_le_bytes()
}

/// A hash in lowercase hexadecimal, without an allocation of its own.
#[derive(Clone, Copy)]
pub struct Hex {
    digits: [u8; MAX_HASH_LEN * 2],
    len: usize,
}

impl Hex {
    /// The digits.
    pub fn as_str(&self) -> &str {
        // Only hexadecimal digits are ever written here, so the fallback is never taken.
        str::from_utf8(&self.digits[..self.len]).unwrap_or_default()
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.size_bytes == other.size_bytes
            && self.function == other.function
            && self.hash == other.hash
    }
}

impl Eq for Digest {}

impl hash::Hash for Digest {
    /// The hash's first 16 bytes are as good a key as all of them, and every function gives at least 20.
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        state.write(&self.hash[..16]);
    }
}

impl Ord for Digest {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        let key = |digest: &Self| (digest.function, digest.hash, digest.size_bytes);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// `hash/size` as people know it from Bazel's messages, behind the function where it is not inferred.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.function.is_inferred() {
            write!(f, "{}/", self.function)?;
        }
        write!(f, "{}/{}", self.hex(), self.size_bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for function in Function::ALL {
            let digest = Digest::of(function, b"hello");
            let parsed = Digest::parse(function, digest.hex().as_str(), 5).unwrap();
            assert_eq!(digest, parsed);
            assert_eq!(digest.hash().len(), function.hash_len());
        }
    }

    #[test]
    fn no_bytes_have_one_hash() {
        for function in Function::ALL {
            assert!(Digest::empty(function).is_empty());
            let other = Digest::of(function, b"x").hex();
            assert!(!Digest::parse(function, other.as_str(), 0).unwrap().is_empty());
        }
    }

    #[test]
    fn refuses_what_is_no_digest() {
        let hex = Digest::empty(Function::Sha256).hex();
        let parse = |hex: &str, size| Digest::parse(Function::Sha256, hex, size);
        assert!(parse(hex.as_str(), 0).is_ok());
        assert_eq!(parse(hex.as_str(), -1), Err(DigestError::Size(-1)));
        assert_eq!(parse(hex.as_str(), i64::MAX), Err(DigestError::Size(i64::MAX)));
        assert_eq!(parse(&hex.as_str().to_uppercase(), 0), Err(DigestError::NotHexadecimal));
        assert!(matches!(
            parse(&hex.as_str()[1..], 0),
            Err(DigestError::HashLength { found: 63, .. })
        ));
        let multibyte = "é".repeat(32);
        assert_eq!(parse(&multibyte, 0), Err(DigestError::NotHexadecimal));
    }

    #[test]
    fn every_other_character_is_refused_at_every_place() {
        let good = Digest::of(Function::Sha256, b"x").hex();
        for at in 0..good.as_str().len() {
            for character in 0..128 {
                let mut hex = good.as_str().as_bytes().to_vec();
                hex[at] = character;
                let hex = String::from_utf8(hex).unwrap();
                let parsed = Digest::parse(Function::Sha256, &hex, 1);
                match HEX_DIGITS.contains(&character) {
                    true => assert_eq!(parsed.unwrap().hex().as_str(), hex),
                    false => assert_eq!(parsed, Err(DigestError::NotHexadecimal), "{hex}"),
                }
            }
        }
    }

    #[test]
    fn function_and_size_tell_digests_apart() {
        let sha256 = Digest::of(Function::Sha256, b"x");
        let other_size = Digest::parse(Function::Sha256, sha256.hex().as_str(), 2).unwrap();
        let other_function = Digest::parse(Function::Blake3, sha256.hex().as_str(), 1).unwrap();
        assert_ne!(sha256, other_size);
        assert_ne!(sha256, other_function);
    }
}
