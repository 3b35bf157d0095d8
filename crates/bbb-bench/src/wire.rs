//! Framing of gRPC messages over HTTP/2 bodies, without copying payloads.
//!
//! Source: the gRPC over HTTP/2 protocol description (length-prefixed messages) and the protocol buffer encoding.
//! The room knows bytes only: no connections, no services but the one field of ByteStream that carries data.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bbb_reapi::proto::bytestream::WriteRequest;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use prost::Message;

use crate::failure::Failure;

/// Bytes before each message: a flag (1 when compressed) and the length as big-endian `u32`.
const PREFIX_BYTES: usize = 5;
/// Payloads below this are copied behind their header: one HTTP/2 frame is cheaper than two.
const COPY_BELOW_BYTES: usize = 8 << 10;
/// Longest message that is taken from a server.
const MAX_MESSAGE_BYTES: usize = 1 << 30;
/// Tag byte of `google.bytestream.{ReadResponse,WriteRequest}.data`: field 10, length-delimited.
const DATA_TAG: u8 = (10 << 3) | 2;

/// The body of a request: pieces that are sent as they are.
#[derive(Debug, Default)]
pub(crate) struct Outgoing(VecDeque<Bytes>);

impl Outgoing {
    /// One message.
    pub(crate) fn message(message: &impl Message) -> Result<Self, Failure> {
        let length = message.encoded_len();
        let mut piece = prefixed(length)?;
        message.encode(&mut piece).map_err(|error| Failure::wrong(error.to_string()))?;
        Ok(Self(VecDeque::from([piece.freeze()])))
    }

    /// One message that is encoded already.
    pub(crate) fn encoded(message: &Bytes) -> Result<Self, Failure> {
        let prefix = prefixed(message.len())?.freeze();
        Ok(Self(VecDeque::from([prefix, message.clone()])))
    }

    /// The `WriteRequest`s that carry `parts`, one after another, to `resource_name`, in messages of at most
    /// `message_bytes` of data.
    pub(crate) fn write(
        resource_name: String,
        parts: &[Bytes],
        message_bytes: usize,
    ) -> Result<Self, Failure> {
        let total: usize = parts.iter().map(Bytes::len).sum();
        let mut parts: VecDeque<Bytes> = parts.to_vec().into();
        let mut pieces = VecDeque::new();
        let mut header = WriteRequest { resource_name, ..WriteRequest::default() };
        let mut sent = 0;
        loop {
            let size = message_bytes.min(total - sent);
            header.write_offset = sent as i64;
            header.finish_write = sent + size == total;
            push_data_message(&mut pieces, &header, &take(&mut parts, size))?;
            sent += size;
            header.resource_name = String::new();
            if header.finish_write {
                return Ok(Self(pieces));
            }
        }
    }
}

/// A buffer that starts with the prefix of a message of `length` bytes and has room for it.
fn prefixed(length: usize) -> Result<BytesMut, Failure> {
    let announced = u32::try_from(length)
        .map_err(|_| Failure::wrong(format!("a message of {length} bytes cannot be sent")))?;
    let mut piece = BytesMut::with_capacity(PREFIX_BYTES + length);
    piece.put_u8(0);
    piece.put_u32(announced);
    Ok(piece)
}

/// The next `size` bytes of `parts`, without copying.
fn take(parts: &mut VecDeque<Bytes>, mut size: usize) -> Vec<Bytes> {
    let mut taken = Vec::new();
    while size > 0 {
        let Some(front) = parts.front_mut() else { break };
        let piece = front.split_to(size.min(front.len()));
        size -= piece.len();
        if front.is_empty() {
            parts.pop_front();
        }
        taken.push(piece);
    }
    taken
}

/// Appends one message: the fields of `header`, then `data` as field 10.
fn push_data_message(
    pieces: &mut VecDeque<Bytes>,
    header: &WriteRequest,
    data: &[Bytes],
) -> Result<(), Failure> {
    let size: usize = data.iter().map(Bytes::len).sum();
    let mut fields = BytesMut::from(header.encode_to_vec().as_slice());
    if size > 0 {
        fields.put_u8(DATA_TAG);
        prost::encode_length_delimiter(size, &mut fields)
            .map_err(|error| Failure::wrong(error.to_string()))?;
    }
    let mut piece = prefixed(fields.len() + size)?;
    piece.extend_from_slice(&fields);
    if size < COPY_BELOW_BYTES {
        data.iter().for_each(|part| piece.extend_from_slice(part));
        pieces.push_back(piece.freeze());
    } else {
        pieces.push_back(piece.freeze());
        pieces.extend(data.iter().cloned());
    }
    Ok(())
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// Cuts a body into messages.
#[derive(Debug, Default)]
pub(crate) struct Messages(BytesMut);

impl Messages {
    /// Takes in the next piece of the body.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }

    /// The next whole message, if it is there.
    pub(crate) fn pop(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(prefix) = self.0.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let length = message_length(*prefix)?;
        if self.0.len() < PREFIX_BYTES + length {
            self.0.reserve(PREFIX_BYTES + length - self.0.len());
            return Ok(None);
        }
        self.0.advance(PREFIX_BYTES);
        Ok(Some(self.0.split_to(length).freeze()))
    }

    /// Whether nothing of an unfinished message is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The length that a prefix announces.
fn message_length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, Failure> {
    let [flag, length @ ..] = prefix;
    let length = u32::from_be_bytes(length) as usize;
    if flag != 0 {
        return Err(Failure::wrong("a compressed gRPC message that was not asked for"));
    }
    if length > MAX_MESSAGE_BYTES {
        return Err(Failure::wrong(format!("a message of {length} bytes")));
    }
    Ok(length)
}

/// Finds the payload in the pieces of a body of `ReadResponse`s and hands it on without copying.
#[derive(Debug, Default)]
pub(crate) struct DataScanner {
    state: Scan,
    /// Bytes of a prefix, tag or length that came in pieces.
    partial: Vec<u8>,
    /// Bytes left of the message that is being scanned.
    message: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scan {
    #[default]
    Prefix,
    Tag,
    /// The length of a length-delimited field; whether it is the payload.
    Length {
        payload: bool,
    },
    /// A field to step over.
    Varint,
    /// Bytes of a field: how many are left, and whether they are payload.
    Bytes {
        left: usize,
        payload: bool,
    },
}

impl DataScanner {
    /// Takes in the next piece of the body and hands each run of payload in it to `sink`.
    pub(crate) fn push(
        &mut self,
        mut piece: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while !piece.is_empty() {
            if let Scan::Bytes { left, payload } = self.state {
                let run = left.min(piece.len());
                let (bytes, rest) = piece.split_at(run);
                if payload {
                    sink(bytes)?;
                }
                piece = rest;
                self.consume(run)?;
                let left = left - run;
                self.state = Scan::Bytes { left, payload };
                if left == 0 {
                    self.next_field();
                }
            } else {
                let (byte, rest) = (piece[0], &piece[1..]);
                piece = rest;
                self.step(byte)?;
            }
        }
        Ok(())
    }

    /// Whether the body ended where a message ends.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == Scan::Prefix && self.partial.is_empty()
    }

    /// One byte of a prefix, a tag, a length or a number.
    fn step(&mut self, byte: u8) -> Result<(), Failure> {
        self.partial.push(byte);
        if self.state == Scan::Prefix {
            if let Ok(prefix) = <[u8; PREFIX_BYTES]>::try_from(self.partial.as_slice()) {
                self.message = message_length(prefix)?;
                self.next_field();
            }
            return Ok(());
        }
        self.consume(1)?;
        if byte >= 0x80 {
            return match self.partial.len() {
                0..10 => Ok(()),
                _ => Err(Failure::wrong("a number of more than ten bytes")),
            };
        }
        let number = self
            .partial
            .iter()
            .rev()
            .fold(0, |sum: u64, byte| sum.wrapping_shl(7) | u64::from(byte & 0x7f));
        match self.state {
            Scan::Tag => self.field(number),
            Scan::Length { payload } => {
                let left = usize::try_from(number).unwrap_or(usize::MAX);
                self.bytes(left, payload);
                Ok(())
            }
            Scan::Varint | Scan::Prefix | Scan::Bytes { .. } => {
                self.next_field();
                Ok(())
            }
        }
    }

    /// What follows the tag `number`.
    fn field(&mut self, number: u64) -> Result<(), Failure> {
        self.partial.clear();
        match number & 7 {
            0 => self.state = Scan::Varint,
            1 => self.bytes(8, false),
            2 => self.state = Scan::Length { payload: number == u64::from(DATA_TAG) },
            5 => self.bytes(4, false),
            kind => return Err(Failure::wrong(format!("a field of wire type {kind}"))),
        }
        Ok(())
    }

    fn bytes(&mut self, left: usize, payload: bool) {
        self.partial.clear();
        self.state = Scan::Bytes { left, payload };
        if left == 0 {
            self.next_field();
        }
    }

    fn next_field(&mut self) {
        self.partial.clear();
        self.state = if self.message == 0 { Scan::Prefix } else { Scan::Tag };
    }

    fn consume(&mut self, bytes: usize) -> Result<(), Failure> {
        self.message = self
            .message
            .checked_sub(bytes)
            .ok_or_else(|| Failure::wrong("a field that is longer than its message"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
