use bbb_digest::Digest;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::{HeaderValue, header};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tokio::time::Instant;
use tonic::Status;

use super::{
    body::{StreamingBody, UnaryBody},
    frames::PREFIX_BYTES,
};

/// A response as the router takes it.
pub type Response = http::Response<axum::body::Body>;

/// Messages up to this size, in bytes, go out in one piece: the copy costs less than a frame of its own.
const COPIED_BYTES: usize = 4 << 10;

/// Room for the prefix, and for the key and length of one field.
const MAX_HEAD_BYTES: usize = 32;

/// A message on its way out: a head, and the payload that ends it.
#[derive(Clone, Debug)]
pub struct Message {
    pub(super) head: Bytes,
    pub(super) payload: Bytes,
}

impl Message {
    /// The message that `message` is the encoded form of. Does not copy it, but where it is small.
    pub fn encoded(message: impl Into<Bytes>) -> Self {
        Self::new(message.into(), |_| {})
    }

    /// The message whose only field is `payload`, under the number `field`. Does not copy it, but where it
    /// is small.
    pub fn of_bytes(field: u32, payload: Bytes) -> Self {
        let len = payload.len() as u64;
        Self::new(payload, |head| {
            encode_key(field, WireType::LengthDelimited, head);
            encode_varint(len, head);
        })
    }

    /// The message that begins with what `begin` writes and ends with `payload`.
    fn new(payload: Bytes, begin: impl FnOnce(&mut BytesMut)) -> Self {
        let copied = payload.len() <= COPIED_BYTES;
        let mut head =
            BytesMut::with_capacity(MAX_HEAD_BYTES + if copied { payload.len() } else { 0 });
        head.put_bytes(0, PREFIX_BYTES);
        begin(&mut head);
        // What gRPC puts before each message. Lengths are far below 4 GiB, since messages are limited.
        let len = head.len() - PREFIX_BYTES + payload.len();
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        head[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
        if copied {
            head.put_slice(&payload);
        }
        let payload = if copied { Bytes::new() } else { payload };
        Self { head: head.freeze(), payload }
    }
}

/// The length of a digest as a message, in bytes.
pub fn digest_len(digest: &Digest) -> usize {
    let hash_len = digest.hash().len() * 2;
    let size_len = match digest.size_bytes() {
        0 => 0,
        size => 1 + encoded_len_varint(size),
    };
    1 + encoded_len_varint(hash_len as u64) + hash_len + size_len
}

/// Writes a digest as the message field `field`.
pub fn digest_field(field: u32, digest: &Digest, buffer: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(digest_len(digest) as u64, buffer);
    let hex = digest.hex();
    encode_key(1, WireType::LengthDelimited, buffer);
    encode_varint(hex.as_str().len() as u64, buffer);
    buffer.extend_from_slice(hex.as_str().as_bytes());
    if digest.size_bytes() > 0 {
        encode_key(2, WireType::Varint, buffer);
        encode_varint(digest.size_bytes(), buffer);
    }
}

/// The response with one message.
pub fn unary(message: Message) -> Response {
    response(axum::body::Body::new(UnaryBody::new(message)))
}

/// The response with a stream of messages.
pub fn streaming(
    messages: impl Stream<Item = Result<Message, Status>> + Send + 'static,
    deadline: Option<Instant>,
) -> Response {
    response(axum::body::Body::new(StreamingBody::new(messages.boxed(), deadline)))
}

/// The response that is but an error.
pub fn refuse(status: Status) -> Response {
    status.into_http()
}

fn response(body: axum::body::Body) -> Response {
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use bbb_digest::Function;
    use bbb_reapi::{ToProto as _, proto::bytestream, proto::reapi};
    use prost::Message as _;

    use super::*;

    #[test]
    fn digests_are_written_as_the_library_writes_them() {
        for digest in [Digest::empty(Function::Sha1), Digest::of(Function::Sha512, &[1; 300])] {
            let mut written = Vec::new();
            digest_field(2, &digest, &mut written);
            let missing_blob_digests = vec![digest.to_proto()];
            let expected = reapi::FindMissingBlobsResponse { missing_blob_digests }.encode_to_vec();
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn payloads_are_framed_as_the_library_frames_them() {
        for len in [0, 1, COPIED_BYTES, COPIED_BYTES + 1, 1 << 20] {
            let data = vec![7; len];
            let message = Message::of_bytes(10, data.clone().into());
            let whole = [message.head, message.payload].concat();
            assert_eq!(whole[0], 0);
            assert_eq!(whole[1..5], (whole.len() as u32 - 5).to_be_bytes());
            let decoded = bytestream::ReadResponse::decode(&whole[5..]).unwrap();
            assert_eq!(decoded.data, data);
            let message = Message::encoded(whole[5..].to_vec());
            assert_eq!([message.head, message.payload].concat(), whole);
        }
    }
}
