//! `google.bytestream.WriteRequest`, read without copying its data.

use bytes::Buf as _;
use prost::{
    DecodeError,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use crate::wire::Rope;

/// A `WriteRequest`.
#[derive(Debug, Default)]
pub(super) struct WriteMessage {
    /// The resource; empty where it is not sent.
    pub(super) resource_name: String,
    /// Where the data goes.
    pub(super) write_offset: i64,
    /// Whether this is the last one.
    pub(super) finish_write: bool,
    /// The data.
    pub(super) data: Rope,
}

impl WriteMessage {
    /// Reads an encoded message. Where a field stands twice, the last one counts, as ever.
    pub(super) fn decode(mut rope: Rope) -> Result<Self, DecodeError> {
        let mut message = Self::default();
        while !rope.is_empty() {
            let (number, wire_type) = decode_key(&mut rope)?;
            match (number, wire_type) {
                (1, WireType::LengthDelimited) => {
                    let name = take(&mut rope)?.into_bytes().to_vec();
                    message.resource_name = String::from_utf8(name).map_err(|_| broken())?;
                }
                (2, WireType::Varint) => {
                    message.write_offset = decode_varint(&mut rope)?.cast_signed();
                }
                (3, WireType::Varint) => message.finish_write = decode_varint(&mut rope)? != 0,
                (10, WireType::LengthDelimited) => message.data = take(&mut rope)?,
                _ => skip_field(wire_type, number, &mut rope, DecodeContext::default())?,
            }
        }
        Ok(message)
    }
}

fn take(rope: &mut Rope) -> Result<Rope, DecodeError> {
    let len = usize::try_from(decode_varint(rope)?).map_err(|_| broken())?;
    match len <= rope.remaining() {
        true => Ok(rope.split_to(len)),
        false => Err(broken()),
    }
}

/// The library's error for what ends too soon; it lets nobody make one.
fn broken() -> DecodeError {
    match decode_varint(&mut &[][..]) {
        Err(error) => error,
        // An empty buffer holds no varint, so that this is never reached; any error would do.
        Ok(_) => DecodeError::new_unexpected_type_url("", ""),
    }
}

#[cfg(test)]
mod tests {
    use bbb_reapi::proto::bytestream::WriteRequest;
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;

    fn rope(encoded: &[u8], len: usize) -> Rope {
        let mut rope = Rope::default();
        encoded.chunks(len).for_each(|piece| rope.push(Bytes::copy_from_slice(piece)));
        rope
    }

    #[test]
    fn reads_what_the_library_writes_however_it_is_cut() {
        let request = WriteRequest {
            resource_name: "uploads/u/blobs/x/3".into(),
            write_offset: 1 << 40,
            finish_write: true,
            data: (0..=255).collect(),
        };
        let encoded = request.encode_to_vec();
        for len in [1, 2, 3, 7, 100, 1000] {
            let message = WriteMessage::decode(rope(&encoded, len)).unwrap();
            assert_eq!(message.resource_name, request.resource_name);
            assert_eq!(message.write_offset, request.write_offset);
            assert!(message.finish_write);
            assert_eq!(message.data.into_bytes(), request.data);
        }
        for end in 1..encoded.len() {
            let whole = WriteMessage::decode(rope(&encoded[..end], 7));
            let library = WriteRequest::decode(&encoded[..end]);
            assert_eq!(whole.is_ok(), library.is_ok(), "cut at {end}");
        }
    }
}
