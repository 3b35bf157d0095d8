//! FastCDC as of 2020: where a blob is cut, so that equal stretches of unlike blobs become equal chunks.
//!
//! The paper is "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems"
//! by Wen Xia et al. (IEEE TPDS 2020); the parameters are those that the comment of `FastCdc2020Params`
//! in the Remote Execution API lays down: normalization level 2, a gear table of MD5 hashes, and the masks
//! of the paper's reference implementation.

use std::sync::LazyLock;

use md5::{Digest as _, Md5};

/// The chunk size that is announced, in bytes: what the API recommends.
pub(crate) const AVERAGE_BYTES: usize = 512 << 10;

/// The masks of the paper's reference implementation for averages of 2^i bytes, from 2^8 on. Each has
/// one bit more than the one before.
const MASKS: [u64; 18] = [
    0x0000_0018_0003_5300,
    0x0000_0190_0035_3000,
    0x0000_5900_0353_0000,
    0x0000_d900_0353_0000,
    0x0000_d901_0353_0000,
    0x0000_d903_0353_0000,
    0x0000_d903_1353_0000,
    0x0000_d90f_0353_0000,
    0x0000_d903_0353_7000,
    0x0000_d907_0353_7000,
    0x0000_d907_0753_7000,
    0x0000_d917_0753_7000,
    0x0000_d917_4753_7000,
    0x0000_d917_6753_7000,
    0x0000_d937_6753_7000,
    0x0000_d937_7753_7000,
    0x0000_d937_7757_7000,
    0x0000_db37_7757_7000,
];

/// The exponent of the first mask.
const FIRST_MASK_BITS: u32 = 8;

/// How many bits the masks on either side of the average have more or fewer.
const NORMALIZATION: u32 = 2;

/// For each byte the first half of the MD5 hash of 64 such bytes. The API's comment speaks of one byte; its
/// test vectors come out with 64.
static GEAR: LazyLock<[u64; 256]> = LazyLock::new(|| {
    std::array::from_fn(|byte| {
        let hash = Md5::digest([byte as u8; 64]);
        hash.iter().take(8).fold(0, |gear, byte| gear << 8 | u64::from(*byte))
    })
});

/// Cuts blobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cutter {
    min: usize,
    average: usize,
    max: usize,
    /// Cuts rarely: up to the average.
    strict: u64,
    /// Cuts often: past the average.
    loose: u64,
}

impl Cutter {
    /// Cuts as is announced: chunks of 512 KiB, at least a quarter and at most four times as large.
    pub(crate) fn announced() -> Self {
        Self::new(AVERAGE_BYTES / 4, AVERAGE_BYTES, AVERAGE_BYTES * 4)
    }

    /// Cuts chunks of about `average` bytes, a power of two between 1 KiB and 8 MiB.
    fn new(min: usize, average: usize, max: usize) -> Self {
        let mask = |bits: u32| MASKS[(bits - FIRST_MASK_BITS) as usize];
        let bits = average.ilog2();
        let (strict, loose) = (mask(bits + NORMALIZATION), mask(bits - NORMALIZATION));
        Self { min, average, max, strict, loose }
    }

    /// The largest chunk, in bytes. So many bytes must lie before [`Cutter::cut`] unless the blob ends.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// The smallest chunk but the last, in bytes.
    pub(crate) fn min(&self) -> usize {
        self.min
    }

    /// The length of the first chunk of `data`.
    ///
    /// The reference implementation rolls two bytes at a time and so never looks at an odd last byte;
    /// with even sizes of chunks this is all that shows of it.
    pub(crate) fn cut(&self, data: &[u8]) -> usize {
        let end = data.len().min(self.max);
        if end <= self.min {
            return end;
        }
        let center = self.average.min(end);
        let gear = &*GEAR;
        let mut hash = 0u64;
        let even = |at: usize| at & !1;
        for (range, mask) in [
            (even(self.min)..even(center), self.strict),
            (even(center).max(even(self.min))..even(end), self.loose),
        ] {
            for (at, byte) in range.clone().zip(&data[range]) {
                hash = (hash << 1).wrapping_add(gear[usize::from(*byte)]);
                if hash & mask == 0 {
                    return at;
                }
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use fastcdc::v2020::{FastCDC, Normalization};
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let byte = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(byte).collect()
    }

    fn lengths(cutter: Cutter, mut data: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !data.is_empty() {
            let len = cutter.cut(data);
            lengths.push(len);
            data = &data[len..];
        }
        lengths
    }

    fn reference(cutter: Cutter, data: &[u8]) -> Vec<usize> {
        let Cutter { min, average, max, .. } = cutter;
        FastCDC::with_level(data, min, average, max, Normalization::Level2)
            .map(|chunk| chunk.length)
            .collect()
    }

    #[test]
    fn cuts_where_the_implementation_named_by_the_api_cuts() {
        let cutter = Cutter::announced();
        let data = noise(16 << 20, 1);
        let expected = reference(cutter, &data);
        assert!(expected.len() > 16, "{}", expected.len());
        assert_eq!(lengths(cutter, &data), expected);
        let zeros = vec![0; 9 << 20];
        assert_eq!(lengths(cutter, &zeros), reference(cutter, &zeros));
    }

    proptest! {
        #[test]
        fn cuts_alike_at_every_size(
            len in 0usize..400_000, seed: u64, bits in 10u32..15, alphabet: u8, period in 1usize..9000,
        ) {
            let average = 1usize << bits;
            let cutter = Cutter::new(average / 4, average, average * 4);
            let data = noise(len, seed);
            // From any bytes to a few letters, and to the same stretch again and again.
            let letters: Vec<u8> = data.iter().map(|byte| byte & alphabet).collect();
            let again: Vec<u8> = data.iter().take(period).copied().cycle().take(len).collect();
            for data in [data, letters, again] {
                let cut = lengths(cutter, &data);
                prop_assert_eq!(&cut, &reference(cutter, &data));
                let (last, others) = cut.split_last().unwrap_or((&0, &[]));
                prop_assert!(*last <= cutter.max());
                prop_assert!(others.iter().all(|len| (cutter.min()..=cutter.max()).contains(len)));
            }
        }

        #[test]
        fn a_chunk_does_not_depend_on_what_follows_its_largest_length(seed: u64, len in 0usize..40_000) {
            let cutter = Cutter::new(1 << 10, 4 << 10, 16 << 10);
            let data = noise(cutter.max() + len, seed);
            prop_assert_eq!(cutter.cut(&data), cutter.cut(&data[..cutter.max()]));
        }
    }

    /// The published test vectors that the API's comment names: of each chunk its length and the gear hash at
    /// which it ends, without a seed and with the seed 666, which changes the gears and no mask. Smallest,
    /// average and largest chunk: 4096, 16,384 and 65,535 bytes.
    const PUBLISHED: [[(usize, u64); 6]; 2] = [
        [
            (19_186, 17_583_755_766_661_134_474),
            (19_279, 4_098_594_969_649_699_419),
            (17_354, 2_365_586_132_076_908_760),
            (16_387, 16_009_206_469_796_846_404),
            (19_940, 2_473_608_525_189_754_172),
            (17_320, 2_504_464_741_100_432_583),
        ],
        [
            (17_635, 17_021_115_692_437_263_050),
            (17_334, 8_231_525_949_846_907_466),
            (19_136, 10_944_310_959_829_698_982),
            (17_467, 13_602_876_513_398_592_944),
            (23_593, 2_945_079_350_535_657_389),
            (14_301, 8_981_594_897_574_481_255),
        ],
    ];

    /// The picture that the vectors cut is in no package that a test can install, so this holds against
    /// them what they say without it: sizes, and that each hash is one at which we cut. That we cut any
    /// data as the implementation does which gave the vectors is what the other tests show.
    #[test]
    fn published_vectors_end_where_our_masks_cut() {
        let cutter = Cutter::new(4096, 16_384, 65_535);
        for chunks in PUBLISHED {
            let size: usize = chunks.iter().map(|(len, _)| len).sum();
            assert_eq!(size, 109_466);
            let [cut @ .., (last, _)] = chunks;
            assert!(last <= cutter.max);
            for (len, hash) in cut {
                assert!((cutter.min..=cutter.max).contains(&len));
                let mask = if len < cutter.average { cutter.strict } else { cutter.loose };
                // Rolling two bytes at a time, the implementation has shifted the hash after the first.
                let shift = u32::from(len % 2 == 0);
                assert_eq!(hash & mask << shift, 0, "a chunk of {len} bytes");
            }
        }
    }

    #[test]
    fn masks_grow_bit_by_bit_as_in_the_reference() {
        for (index, mask) in MASKS.iter().enumerate() {
            assert_eq!(*mask, fastcdc::v2020::MASKS[index + FIRST_MASK_BITS as usize]);
        }
    }
}
