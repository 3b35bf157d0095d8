use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::{Digest, Function, sha256tree::Sha256Tree};

/// Computes the digest of bytes as they stream by. A clone goes on from where it was made.
#[derive(Clone)]
pub struct Hasher {
    state: State,
    function: Function,
    size_bytes: u64,
}

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha1(Sha1),
    Sha384(Box<Sha384>),
    Sha512(Box<Sha512>),
    Sha256Tree(Box<Sha256Tree>),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// A hasher of nothing yet. `size_bytes` is the size that the blob will have; only GITSHA1, which
    /// hashes the size before the bytes, looks at it.
    pub fn new(function: Function, size_bytes: u64) -> Self {
        let state = match function {
            Function::Sha256 => State::Sha256(Sha256::new()),
            Function::Sha1 => State::Sha1(Sha1::new()),
            Function::Sha384 => State::Sha384(Box::new(Sha384::new())),
            Function::Sha512 => State::Sha512(Box::new(Sha512::new())),
            Function::Sha256Tree => State::Sha256Tree(Box::default()),
            Function::Blake3 => State::Blake3(Box::new(blake3::Hasher::new())),
            Function::GitSha1 => State::Sha1(Sha1::new_with_prefix(format!("blob {size_bytes}\0"))),
        };
        Self { state, function, size_bytes: 0 }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, data: &[u8]) {
        self.size_bytes += data.len() as u64;
        match &mut self.state {
            State::Sha256(hasher) => hasher.update(data),
            State::Sha1(hasher) => hasher.update(data),
            State::Sha384(hasher) => hasher.update(data),
            State::Sha512(hasher) => hasher.update(data),
            State::Sha256Tree(hasher) => hasher.update(data),
            State::Blake3(hasher) => {
                hasher.update(data);
            }
        }
    }

    /// The number of bytes taken in so far.
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Digest {
        let digest = |hash: &[u8]| Digest::from_hash(self.function, hash, self.size_bytes);
        match self.state {
            State::Sha256(hasher) => digest(&hasher.finalize()),
            State::Sha1(hasher) => digest(&hasher.finalize()),
            State::Sha384(hasher) => digest(&hasher.finalize()),
            State::Sha512(hasher) => digest(&hasher.finalize()),
            State::Sha256Tree(hasher) => digest(&hasher.finish()),
            State::Blake3(hasher) => digest(hasher.finalize().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_published_hashes_of_abc() {
        for (function, hex) in [
            (Function::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (Function::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (Function::GitSha1, "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"),
            (Function::Blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
        ] {
            assert_eq!(Digest::of(function, b"abc").hex().as_str(), hex, "{function}");
        }
    }

    #[test]
    fn does_not_depend_on_how_bytes_are_cut() {
        let data: Vec<u8> = (0..10_000u32).map(|i| ((i * i) >> 3) as u8).collect();
        for function in Function::ALL {
            let mut hasher = Hasher::new(function, data.len() as u64);
            data.chunks(333).for_each(|chunk| hasher.update(chunk));
            assert_eq!(hasher.finish(), Digest::of(function, &data), "{function}");
        }
    }
}
