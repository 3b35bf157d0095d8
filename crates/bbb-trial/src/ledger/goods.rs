//! What is stored: made from a seed and a number alone, so that a ledger need not hold it.

use bbb_digest::{Digest, Function};
use bbb_reapi::{
    ToProto as _,
    proto::reapi::{ActionResult, OutputFile},
};
use bytes::Bytes;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

/// Half of each piece of this many bytes repeats the other half, so that compression has something to find.
const PIECE_BYTES: usize = 4096;

/// How the blobs of a step go to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// All in one call.
    Batch,
    /// As a stream of bytes.
    Stream,
    /// As a stream of zstd frames that hold so many bytes each.
    Frames(usize),
}

/// Some blobs that are stored in one go, and perhaps a result that needs them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    seed: u64,
    number: u64,
    pub(super) way: Way,
    sizes_bytes: Vec<usize>,
    pub(super) has_result: bool,
}

impl Step {
    /// The step of this number: most of them are some small blobs, a few are one of up to 24 MiB.
    pub(super) fn of(seed: u64, number: u64) -> Self {
        let mut dice = dice(seed, number, 0);
        let frames = if dice.random_ratio(1, 2) { 256 << 10 } else { usize::MAX };
        let (way, sizes_bytes) = match dice.random_range(0..100) {
            0..60 => {
                let count = dice.random_range(1..=24);
                (Way::Batch, (0..count).map(|_| dice.random_range(1..8 << 10)).collect())
            }
            60..85 => (Way::Stream, vec![dice.random_range(8 << 10..2 << 20)]),
            85..95 => (Way::Frames(frames), vec![dice.random_range(8 << 10..2 << 20)]),
            95..98 => (Way::Stream, vec![dice.random_range(5 << 20..24 << 20)]),
            _ => (Way::Frames(frames), vec![dice.random_range(5 << 20..24 << 20)]),
        };
        Self { seed, number, way, sizes_bytes, has_result: dice.random_ratio(1, 3) }
    }

    /// A step that is one blob of this size and no result; its number's parity says how it is sent.
    pub(super) fn of_size(seed: u64, number: u64, bytes: usize) -> Self {
        let way = if number.is_multiple_of(2) { Way::Stream } else { Way::Frames(256 << 10) };
        Self { seed, number, way, sizes_bytes: vec![bytes], has_result: false }
    }

    pub(super) const fn blobs(&self) -> usize {
        self.sizes_bytes.len()
    }

    /// The blob of this index below `blobs()`.
    pub(super) fn blob(&self, index: usize) -> Bytes {
        let mut dice = dice(self.seed, self.number, 1 + index as u64);
        let mut data = vec![0; self.sizes_bytes[index]];
        for piece in data.chunks_mut(PIECE_BYTES) {
            let (half, other) = piece.split_at_mut(piece.len().div_ceil(2));
            dice.fill_bytes(half);
            other.copy_from_slice(&half[..other.len()]);
        }
        data.into()
    }

    /// The digest of the action that the result is of.
    pub(super) fn action(&self) -> Digest {
        Digest::of(Function::Sha256, format!("action {} {}", self.seed, self.number).as_bytes())
    }

    /// A result that needs all blobs of the step; another one for each edition.
    pub(super) fn result(&self, edition: u32) -> ActionResult {
        let file = |index| OutputFile {
            path: format!("out/{edition}/{index}"),
            digest: Some(Digest::of(Function::Sha256, &self.blob(index)).to_proto()),
            ..OutputFile::default()
        };
        ActionResult {
            output_files: (0..self.blobs()).map(file).collect(),
            stdout_raw: format!("step {}", self.number).into_bytes(),
            ..ActionResult::default()
        }
    }
}

fn dice(seed: u64, number: u64, use_of_it: u64) -> StdRng {
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, number, use_of_it]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    StdRng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_made_of_its_seed_and_number_alone() {
        for number in 0..50 {
            let step = Step::of(7, number);
            assert_eq!(step, Step::of(7, number));
            assert_eq!(step.blob(0), Step::of(7, number).blob(0));
            assert_ne!(step.blob(0), Step::of(8, number).blob(0));
        }
    }

    #[test]
    fn there_is_something_of_everything() {
        let steps: Vec<_> = (0..200).map(|number| Step::of(7, number)).collect();
        assert!(steps.iter().any(|step| step.way == Way::Batch && step.blobs() > 1));
        assert!(steps.iter().any(|step| step.sizes_bytes[0] > 5 << 20));
        assert!(steps.iter().any(|step| step.has_result));
        assert!(steps.iter().any(|step| step.way == Way::Frames(usize::MAX)));
        assert!(steps.iter().any(|step| step.way == Way::Frames(256 << 10)));
    }
}
