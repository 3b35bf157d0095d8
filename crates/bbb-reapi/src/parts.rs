//! How many parts an encoded message has, told before it is decoded.
//!
//! An empty part takes two bytes on the wire and up to two hundred once it is decoded. Who decodes first and
//! checks afterwards can so be made to take a hundred times the memory of what was sent; messages whose parts are
//! many are therefore counted first.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::Invalid;

/// How many parts a stored message may have, however long it is: a `Directory` of a million files.
const MAX_STORED: usize = 1 << 20;

/// How many parts the message of a call may have. 4 MiB of digests are some 60,000.
const MAX_CALLED: usize = 100_000;

/// How many parts any message may have: empty arguments, for example, are right.
const ALWAYS: usize = 10_000;

/// How many bytes a part has at least, where there are very many: a symlink with names of one character.
const MIN_PART_BYTES: usize = 8;

/// Which fields of a message are parts that may stand there many times, by number, and what parts they have.
#[derive(Debug)]
pub struct Shape(&'static [(u32, &'static Shape)]);

const LEAF: &Shape = &Shape(&[]);
const PROPERTIES: &Shape = &Shape(&[(1, LEAF)]);
const SYMLINK: &Shape = &Shape(&[(4, PROPERTIES)]);
const FILE: &Shape = &Shape(&[(6, PROPERTIES)]);

/// `Directory`.
pub const DIRECTORY: &Shape = &Shape(&[(1, FILE), (2, LEAF), (3, SYMLINK), (5, PROPERTIES)]);

/// `Tree`.
pub const TREE: &Shape = &Shape(&[(1, DIRECTORY), (2, DIRECTORY)]);

/// `Command`, whose platform is the field 5.
pub const COMMAND: &Shape =
    &Shape(&[(1, LEAF), (2, LEAF), (3, LEAF), (4, LEAF), (5, PROPERTIES), (7, LEAF), (8, LEAF)]);

/// `Action`, whose platform is the field 10.
pub const ACTION: &Shape = &Shape(&[(10, PROPERTIES)]);

/// `GetActionResultRequest`.
pub const GET_ACTION_RESULT: &Shape = &Shape(&[(5, LEAF)]);

/// `UpdateActionResultRequest`.
pub const UPDATE_ACTION_RESULT: &Shape = &Shape(&[(3, ACTION_RESULT)]);

const ACTION_RESULT: &Shape = &Shape(&[
    (2, &Shape(&[(7, PROPERTIES)])),
    (3, LEAF),
    (9, METADATA),
    (10, SYMLINK),
    (11, SYMLINK),
    (12, SYMLINK),
]);

/// `ExecutedActionMetadata`, whose auxiliary facts are the field 11.
const METADATA: &Shape = &Shape(&[(11, LEAF)]);

/// `BatchUpdateBlobsRequest` and `BatchReadBlobsRequest`.
pub const BATCH: &Shape = &Shape(&[(2, LEAF)]);

/// `SpliceBlobRequest` and `RegisterChunkMappingRequest`.
pub const SPLICE: &Shape = &Shape(&[(3, LEAF)]);

/// Refuses a stored message that has too many parts.
///
/// # Errors
/// If it has; the field is called `message`.
pub fn check_stored(shape: &Shape, message: &[u8]) -> Result<(), Invalid> {
    check(shape, message, MAX_STORED)
}

/// Refuses the message of a call that has too many parts.
///
/// # Errors
/// If it has; the field is called `message`.
pub fn check_called(shape: &Shape, message: &[u8]) -> Result<(), Invalid> {
    check(shape, message, MAX_CALLED)
}

fn check(shape: &Shape, message: &[u8], most: usize) -> Result<(), Invalid> {
    let most = most.min(ALWAYS + message.len() / MIN_PART_BYTES);
    let mut left = most;
    match count(shape, message, &mut left) {
        Counted::TooMany => {
            Err(Invalid::new("message", format!("has more than {most} parts, many of them empty")))
        }
        Counted::All | Counted::Broken => Ok(()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    All,
    TooMany,
    /// It cannot be read on: decoding it ends here, too, and says what is wrong.
    Broken,
}

fn count(shape: &Shape, mut rest: &[u8], left: &mut usize) -> Counted {
    while !rest.is_empty() {
        let Ok((number, wire_type)) = decode_key(&mut rest) else { return Counted::Broken };
        let nested = shape.0.iter().find(|(field, _)| *field == number);
        let Some((_, nested)) = nested.filter(|_| wire_type == WireType::LengthDelimited) else {
            match skip_field(wire_type, number, &mut rest, DecodeContext::default()) {
                Ok(()) => continue,
                Err(_) => return Counted::Broken,
            }
        };
        let len = decode_varint(&mut rest).ok().and_then(|len| usize::try_from(len).ok());
        let Some((part, behind)) = len.and_then(|len| rest.split_at_checked(len)) else {
            return Counted::Broken;
        };
        rest = behind;
        let Some(fewer) = left.checked_sub(1) else { return Counted::TooMany };
        *left = fewer;
        match count(nested, part, left) {
            Counted::All => {}
            ended => return ended,
        }
    }
    Counted::All
}

#[cfg(test)]
mod tests {
    use bbb_digest::{Digest, Function};
    use prost::Message as _;

    use super::*;
    use crate::{
        Directory, ToProto as _, Tree,
        proto::reapi::{self, ActionResult, UpdateActionResultRequest},
    };

    fn empty_parts(field: u8, count: usize) -> Vec<u8> {
        [field << 3 | 2, 0].repeat(count)
    }

    #[test]
    fn a_million_empty_parts_are_refused_before_they_are_decoded() {
        let files = empty_parts(1, 1 << 20);
        let refused = Directory::decode(Function::Sha256, &files).unwrap_err();
        assert_eq!(refused.field, "message");
        let children = empty_parts(2, 1 << 20);
        assert_eq!(Tree::decode(Function::Sha256, &children).unwrap_err().field, "message");
        // Wherever they are nested.
        let nested = |field: u8, inner: Vec<u8>| {
            let mut outer = vec![field << 3 | 2];
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.extend(inner);
            outer
        };
        let properties = nested(1, nested(6, empty_parts(1, 1 << 20)));
        assert!(check_stored(DIRECTORY, &properties).is_err());
        assert!(check_stored(TREE, &nested(2, properties)).is_err());
        let files = nested(3, empty_parts(2, 1 << 20));
        assert!(check_called(UPDATE_ACTION_RESULT, &files).is_err());
    }

    #[test]
    fn what_clients_send_passes() {
        let digest = Some(Digest::of(Function::Sha1, b"").to_proto());
        let file = |name| reapi::FileNode { name, digest: digest.clone(), ..Default::default() };
        let link = |name| reapi::SymlinkNode { name, target: "t".into(), ..Default::default() };
        let directory = reapi::Directory {
            files: (0..50_000).map(|number: u32| file(number.to_string())).collect(),
            symlinks: (50_000..100_000).map(|number: u32| link(number.to_string())).collect(),
            ..Default::default()
        };
        assert!(Directory::decode(Function::Sha1, &directory.encode_to_vec()).is_ok());
        let command = reapi::Command { arguments: vec![String::new(); 1000], ..Default::default() };
        assert_eq!(check_stored(COMMAND, &command.encode_to_vec()), Ok(()));
        let output_files =
            vec![reapi::OutputFile { path: "p".into(), digest, ..Default::default() }; 50_000];
        let action_result = Some(ActionResult { output_files, ..Default::default() });
        let request = UpdateActionResultRequest { action_result, ..Default::default() };
        assert_eq!(check_called(UPDATE_ACTION_RESULT, &request.encode_to_vec()), Ok(()));
    }

    #[test]
    fn what_is_broken_is_left_to_the_decoder() {
        for bytes in
            [&b"\x0a"[..], b"\x0a\x05ab", b"\xff\xff\xff", b"\x0a\x02\x0a\x7f", b"\x0b\x0b\x0c"]
        {
            assert_eq!(check_stored(TREE, bytes), Ok(()));
        }
    }
}
