//! zstd streams (RFC 8878), in both directions and in bounded memory.

use std::io;

use bytes::{Buf as _, Bytes};
use futures::{StreamExt as _, stream, stream::BoxStream};
use zstd::stream::raw::{DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

/// The level at which blobs are compressed: the fastest that still finds most of what there is.
pub const LEVEL: i32 = 1;

/// The largest window that a frame may ask for, as a power of two: 32 MiB, more than encoders use but at their
/// very highest levels. Larger ones are refused, so that a frame cannot reserve memory at will.
const MAX_WINDOW_LOG: u32 = 25;

/// How many bytes are taken in or handed on at a time: well below a millisecond's work.
const PIECE_BYTES: usize = 128 << 10;

/// A stream of bytes whose errors are the caller's.
pub type ByteStream<E> = BoxStream<'static, Result<Bytes, E>>;

/// Decodes a stream of zstd frames. What is no such stream, or ends within a frame, ends in the error
/// that `bad` makes.
pub fn decode<E: Send + 'static>(input: ByteStream<E>, bad: fn(io::Error) -> E) -> ByteStream<E> {
    transcode(input, decoder(), bad)
}

/// A decoder that refuses frames whose window is too large.
pub(crate) fn decoder() -> io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
    Ok(decoder)
}

/// Encodes a stream as one zstd frame.
pub fn encode<E: Send + 'static>(input: ByteStream<E>, bad: fn(io::Error) -> E) -> ByteStream<E> {
    transcode(input, Encoder::new(LEVEL), bad)
}

/// Encodes what is in memory as one zstd frame.
///
/// # Errors
/// If the library cannot reserve its memory.
pub fn encode_bytes(data: &[u8]) -> io::Result<Bytes> {
    zstd::bulk::compress(data, LEVEL).map(Bytes::from)
}

/// Decodes what is in memory, to exactly `size_bytes` bytes.
///
/// # Errors
/// If it is no zstd stream, or decodes to more or fewer bytes.
pub fn decode_bytes(data: &[u8], size_bytes: usize) -> io::Result<Bytes> {
    let mut decoded = vec![0; size_bytes];
    let count = zstd::bulk::decompress_to_buffer(data, &mut decoded)?;
    match count == size_bytes {
        true => Ok(decoded.into()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "decodes to fewer bytes")),
    }
}

/// A direction of zstd at work on a stream.
struct Transcoder<O, E> {
    input: ByteStream<E>,
    /// What came last and is not taken in yet.
    rest: Bytes,
    operation: O,
    /// Whether the operation stands between frames, where a stream may end.
    between_frames: bool,
    /// Whether the last piece was full, so that more may wait within the operation.
    output_waits: bool,
    input_ended: bool,
}

fn transcode<O, E>(
    input: ByteStream<E>,
    new: io::Result<O>,
    bad: fn(io::Error) -> E,
) -> ByteStream<E>
where
    O: Operation + Send + 'static,
    E: Send + 'static,
{
    let operation = match new {
        Ok(operation) => operation,
        Err(error) => return stream::once(async move { Err(bad(error)) }).boxed(),
    };
    let transcoder = Transcoder {
        input,
        rest: Bytes::new(),
        operation,
        between_frames: true,
        output_waits: false,
        input_ended: false,
    };
    stream::try_unfold(Some(transcoder), move |transcoder| async move {
        let Some(mut transcoder) = transcoder else { return Ok(None) };
        loop {
            if transcoder.rest.is_empty() && !transcoder.input_ended {
                match transcoder.input.next().await.transpose()? {
                    Some(bytes) => transcoder.rest = bytes,
                    None => transcoder.input_ended = true,
                }
            }
            let (piece, ended) = transcoder.step().map_err(bad)?;
            match (piece.is_empty(), ended) {
                (false, false) => return Ok(Some((piece, Some(transcoder)))),
                (false, true) => return Ok(Some((piece, None))),
                (true, true) => return Ok(None),
                (true, false) => {}
            }
        }
    })
    .boxed()
}

impl<O: Operation, E> Transcoder<O, E> {
    /// Does one piece of work: the bytes that it gave, and whether they were the last.
    fn step(&mut self) -> io::Result<(Bytes, bool)> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let mut out = OutBuffer::around(&mut piece);
        let mut input = InBuffer::around(&self.rest[..self.rest.len().min(PIECE_BYTES)]);
        if !input.src.is_empty() || self.output_waits {
            self.between_frames = self.operation.run(&mut input, &mut out)? == 0;
        }
        let taken = input.pos();
        self.rest.advance(taken);
        self.output_waits = out.pos() == PIECE_BYTES && !self.between_frames;
        let at_end = self.input_ended && self.rest.is_empty() && !self.output_waits;
        let ended = at_end && self.operation.finish(&mut out, self.between_frames)? == 0;
        Ok((piece.into(), ended))
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    fn stream_of(pieces: Vec<Bytes>) -> ByteStream<io::Error> {
        stream::iter(pieces.into_iter().map(Ok)).boxed()
    }

    fn cut(data: &[u8], len: usize) -> Vec<Bytes> {
        data.chunks(len).map(Bytes::copy_from_slice).collect()
    }

    async fn all(stream: ByteStream<io::Error>) -> io::Result<Vec<u8>> {
        stream
            .try_fold(Vec::new(), |all, piece| async move { Ok([all, piece.to_vec()].concat()) })
            .await
    }

    fn samples() -> Vec<Vec<u8>> {
        let noise = |len: usize| {
            (0..len).map(|i| (i.wrapping_mul(i).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
        };
        vec![
            vec![],
            vec![1],
            noise(PIECE_BYTES),
            noise(PIECE_BYTES + 1),
            vec![0; 3 << 20],
            noise(1 << 20),
        ]
    }

    #[tokio::test]
    async fn decodes_what_it_encodes_however_it_is_cut() {
        for data in samples() {
            let encoded = all(encode(stream_of(cut(&data, 50_000)), |error| error)).await.unwrap();
            assert_eq!(decode_bytes(&encoded, data.len()).unwrap(), data);
            for len in [1000, 1 << 20] {
                let decoded = all(decode(stream_of(cut(&encoded, len)), |error| error)).await;
                assert!(decoded.unwrap() == data, "{} bytes cut at {len}", data.len());
            }
        }
    }

    #[tokio::test]
    async fn decodes_frames_in_a_row() {
        let frames = [encode_bytes(b"one").unwrap(), encode_bytes(b"two").unwrap()].concat();
        assert_eq!(
            all(decode(stream_of(cut(&frames, 5)), |error| error)).await.unwrap(),
            b"onetwo"
        );
    }

    #[tokio::test]
    async fn what_is_no_stream_or_ends_too_soon_is_an_error() {
        let whole = encode_bytes(&[7; 10_000]).unwrap();
        for data in [&whole[..whole.len() - 1], b"no zstd at all", &whole[4..]] {
            assert!(all(decode(stream_of(cut(data, 100)), |error| error)).await.is_err());
            assert!(decode_bytes(data, 10_000).is_err());
        }
        assert!(decode_bytes(&whole, 9_999).is_err());
        assert!(decode_bytes(&whole, 10_001).is_err());
    }
}
