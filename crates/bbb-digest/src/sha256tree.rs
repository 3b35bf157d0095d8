//! SHA256TREE: SHA-256 over a Merkle tree of chunks of 1,024 bytes, as the comment of
//! `DigestFunction.Value.SHA256TREE` in the Remote Execution API defines it.

use sha2::{Digest as _, Sha256, block_api::compress256};

const CHUNK_LEN: usize = 1024;

/// Leading fractional parts of the square roots of the 9th to the 16th prime number.
const PARENT_STATE: [u32; 8] = [
    0xcbbb_9d5d,
    0x629a_292a,
    0x9159_015a,
    0x152f_ecd8,
    0x6733_2667,
    0x8eb4_4a87,
    0xdb0c_2e0d,
    0x47b5_481d,
];

type Hash = [u8; 32];

/// The hash of a stream. Finished subtrees wait on a stack until their sibling is there: the subtree at
/// position `i` of the stack covers as many chunks as the `i`th set bit of `chunks` says.
#[derive(Clone, Default)]
pub(crate) struct Sha256Tree {
    chunk: Sha256,
    chunk_len: usize,
    chunks: u64,
    subtrees: Vec<Hash>,
}

impl Sha256Tree {
    pub(crate) fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            // A full chunk is finished only when more follows, since the last one ends the tree.
            if self.chunk_len == CHUNK_LEN {
                self.finish_chunk();
            }
            let (now, later) = data.split_at(data.len().min(CHUNK_LEN - self.chunk_len));
            self.chunk.update(now);
            self.chunk_len += now.len();
            data = later;
        }
    }

    pub(crate) fn finish(mut self) -> Hash {
        let mut hash: Hash = self.chunk.finalize().into();
        while let Some(left) = self.subtrees.pop() {
            hash = parent(&left, &hash);
        }
        hash
    }

    fn finish_chunk(&mut self) {
        let mut hash: Hash = self.chunk.finalize_reset().into();
        self.chunk_len = 0;
        self.chunks += 1;
        for _ in 0..self.chunks.trailing_zeros() {
            let Some(left) = self.subtrees.pop() else { break };
            hash = parent(&left, &hash);
        }
        self.subtrees.push(hash);
    }
}

/// One call of the block cipher; the addition of the initial state that ends a SHA-256 compression is
/// taken back, since the definition leaves it out.
fn parent(left: &Hash, right: &Hash) -> Hash {
    let mut block = [0; 64];
    block[..32].copy_from_slice(left);
    block[32..].copy_from_slice(right);
    let mut state = PARENT_STATE;
    compress256(&mut state, &[block]);
    let mut hash = [0; 32];
    for ((bytes, word), initial) in hash.chunks_exact_mut(4).zip(state).zip(PARENT_STATE) {
        bytes.copy_from_slice(&word.wrapping_sub(initial).to_be_bytes());
    }
    hash
}

#[cfg(test)]
mod tests {
    use crate::{Digest, Function};

    #[test]
    fn gives_the_published_vectors() {
        let pattern: Vec<u8> = (0..102_400usize).map(|i| (i % 251) as u8).collect();
        let vectors = include_str!("../testdata/sha256tree.txt");
        let mut count = 0;
        for line in vectors.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (len, hex) = line.split_once('\t').unwrap();
            let data = &pattern[..len.parse().unwrap()];
            assert_eq!(Digest::of(Function::Sha256Tree, data).hex().as_str(), hex, "{len} bytes");
            count += 1;
        }
        assert!(count > 15, "only {count} vectors were read");
    }

    #[test]
    fn is_plain_sha256_up_to_one_chunk() {
        let data = [7; 1024];
        let tree = Digest::of(Function::Sha256Tree, &data);
        assert_eq!(tree.hash(), Digest::of(Function::Sha256, &data).hash());
    }
}
