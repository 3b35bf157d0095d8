//! `FindMissingBlobs`, whose requests name thousands of digests: they are read where they lie.

use std::{str, sync::Arc};

use bbb_digest::{Digest, Function};
use bbb_reapi::{Invalid, proto::reapi, requested_function};
use bytes::Bytes;
use tonic::Status;

use crate::{
    Door,
    door::undecodable,
    status::IntoStatus as _,
    wire::{Fields, Message, Request, Response, Value, WireError, digest_field},
};

/// Answers a call.
pub(super) async fn answer(door: Arc<Door>, request: Request) -> Response {
    door.wire
        .unary(request, async |message| {
            let (instance, digests) = parse(&message)?;
            drop(message);
            let cas = door.stores(&instance)?.cas;
            let missing = cas.find_missing(&digests).await;
            let missing = missing.map_err(|error| error.into_status())?;
            let mut response = Vec::with_capacity(missing.len() * 80);
            missing.iter().for_each(|digest| digest_field(2, digest, &mut response));
            Ok(Message::encoded(response))
        })
        .await
}

/// The instance and the digests of a `FindMissingBlobsRequest`.
fn parse(message: &Bytes) -> Result<(String, Vec<Digest>), Status> {
    let mut instance: &[u8] = &[];
    let mut function = 0;
    let mut first = None;
    let mut count = 0;
    for field in Fields::new(message) {
        match field.map_err(undecodable)? {
            (1, Value::Bytes(name)) => instance = name,
            (2, Value::Bytes(digest)) => {
                first = first.or(Some(digest));
                count += 1;
            }
            // Enumerations are varints whose lower 32 bits count.
            (3, Value::Varint(code)) => function = code as i32,
            _ => {}
        }
    }
    let example = first.map(hash_and_size).transpose().map_err(undecodable)?;
    let example = example.map(|(hash, _)| reapi::Digest {
        hash: String::from_utf8_lossy(hash).into_owned(),
        size_bytes: 0,
    });
    let function =
        requested_function(function, example.as_ref()).map_err(|error| error.into_status())?;
    let mut digests = Vec::with_capacity(count);
    for field in Fields::new(message) {
        if let Ok((2, Value::Bytes(digest))) = field {
            let digest = parse_digest(function, digest, digests.len());
            digests.push(digest.map_err(|error| error.into_status())?);
        }
    }
    let instance = str::from_utf8(instance).map_err(undecodable)?.to_owned();
    Ok((instance, digests))
}

fn parse_digest(function: Function, digest: &[u8], index: usize) -> Result<Digest, Invalid> {
    let invalid = |what: String| Invalid::new(format!("blob_digests[{index}]"), what);
    let (hash, size_bytes) = hash_and_size(digest).map_err(|error| invalid(error.to_string()))?;
    let hash = str::from_utf8(hash).map_err(|_| invalid("hash is no text".into()))?;
    Digest::parse(function, hash, size_bytes).map_err(|error| invalid(error.to_string()))
}

/// The fields of an encoded `Digest`.
fn hash_and_size(digest: &[u8]) -> Result<(&[u8], i64), WireError> {
    let mut hash: &[u8] = &[];
    let mut size_bytes = 0;
    for field in Fields::new(digest) {
        match field? {
            (1, Value::Bytes(bytes)) => hash = bytes,
            (2, Value::Varint(value)) => size_bytes = value.cast_signed(),
            _ => {}
        }
    }
    Ok((hash, size_bytes))
}

#[cfg(test)]
mod tests {
    use bbb_reapi::ToProto as _;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    #[test]
    fn reads_what_the_library_writes() {
        for function in Function::ALL {
            let digests: Vec<_> =
                (0..100u8).map(|byte| Digest::of(function, &vec![byte; byte.into()])).collect();
            let request = reapi::FindMissingBlobsRequest {
                instance_name: "a/b".into(),
                blob_digests: digests.iter().map(|digest| digest.to_proto()).collect(),
                digest_function: bbb_reapi::function_code(function) as i32,
            };
            let parsed = parse(&request.encode_to_vec().into()).unwrap();
            assert_eq!(parsed, ("a/b".to_owned(), digests));
        }
    }

    #[test]
    fn names_the_digest_that_is_wrong() {
        let good = Digest::of(Function::Sha256, b"x").to_proto();
        let bad = reapi::Digest { size_bytes: -1, ..good.clone() };
        let request =
            reapi::FindMissingBlobsRequest { blob_digests: vec![good, bad], ..Default::default() };
        let status = parse(&request.encode_to_vec().into()).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().starts_with("blob_digests[1]"), "{}", status.message());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_but_never_worse(bytes: Vec<u8>) {
            let _ = parse(&bytes.into());
        }
    }
}
