use std::fmt;

/// A digest function that this system computes.
///
/// The names are those of `DigestFunction.Value` in the Remote Execution API. MD5 and MURMUR3 are left
/// out on purpose: collisions can be made at will, so a cache keyed by them can be poisoned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Function {
    /// SHA-256, what most clients use.
    Sha256,
    /// SHA-1.
    Sha1,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SHA-256 over a Merkle tree of chunks of 1,024 bytes.
    Sha256Tree,
    /// BLAKE3 with 256 bits of output.
    Blake3,
    /// SHA-1 of the blob behind the header that git gives its blob objects.
    GitSha1,
}

impl Function {
    /// Every function, in the order in which they are announced to clients.
    pub const ALL: [Self; 7] = [
        Self::Sha256,
        Self::Blake3,
        Self::Sha1,
        Self::Sha384,
        Self::Sha512,
        Self::Sha256Tree,
        Self::GitSha1,
    ];

    /// The length of a hash in bytes.
    pub const fn hash_len(self) -> usize {
        match self {
            Self::Sha256 | Self::Sha256Tree | Self::Blake3 => 32,
            Self::Sha1 | Self::GitSha1 => 20,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The function's name as it stands in resource names and paths: lowercase, as the Remote
    /// Execution API's `ContentAddressableStorage` service comment asks for.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha1 => "sha1",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sha256Tree => "sha256tree",
            Self::Blake3 => "blake3",
            Self::GitSha1 => "gitsha1",
        }
    }

    /// The function of this lowercase name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name)
    }

    /// The function that a hash of so many hexadecimal digits stands for where a client names none.
    ///
    /// Only functions that the API lets be inferred take part; BLAKE3, SHA256TREE and GITSHA1 share
    /// their length with another one and must be named.
    pub const fn inferred_from_hex_len(digits: usize) -> Option<Self> {
        match digits {
            40 => Some(Self::Sha1),
            64 => Some(Self::Sha256),
            96 => Some(Self::Sha384),
            128 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Whether resource names leave this function out, since the hash's length says it.
    pub const fn is_inferred(self) -> bool {
        matches!(self, Self::Sha256 | Self::Sha1 | Self::Sha384 | Self::Sha512)
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
