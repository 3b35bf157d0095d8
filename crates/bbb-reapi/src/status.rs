//! Statuses with details: what a client's program can act on, beside the sentence for its user.
//!
//! The detail messages are those of `google/rpc/error_details.proto`, which the generated types leave out.
//! Only what this system sends is here.

use bbb_digest::Digest;
use prost::Message as _;

use crate::{
    Invalid,
    proto::{protobuf::Any, rpc},
};

/// The codes of `google.rpc.Code` that an action can end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// It is done.
    Ok = 0,
    /// The request can never be fulfilled as it is.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// Something must be there first.
    FailedPrecondition = 9,
}

/// `google.rpc.PreconditionFailure`: what must be there first.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PreconditionFailure {
    /// Each thing that is not.
    #[prost(message, repeated, tag = "1")]
    pub violations: Vec<PreconditionViolation>,
}

/// `google.rpc.PreconditionFailure.Violation`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PreconditionViolation {
    /// `MISSING` for a blob that is not stored (comment of `Execution.Execute`).
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// `blobs/{digest_function/}{hash}/{size}`.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// For people.
    #[prost(string, tag = "3")]
    pub description: String,
}

/// `google.rpc.BadRequest`: which fields are wrong.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct BadRequest {
    /// Each field that is.
    #[prost(message, repeated, tag = "1")]
    pub field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FieldViolation {
    /// The path of the field.
    #[prost(string, tag = "1")]
    pub field: String,
    /// What is wrong with it.
    #[prost(string, tag = "2")]
    pub description: String,
}

const PRECONDITION_FAILURE: &str = "type.googleapis.com/google.rpc.PreconditionFailure";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

/// How many blobs a message for people names.
const NAMED: usize = 3;

impl From<PreconditionFailure> for Any {
    fn from(detail: PreconditionFailure) -> Self {
        Any { type_url: PRECONDITION_FAILURE.into(), value: detail.encode_to_vec() }
    }
}

impl From<BadRequest> for Any {
    fn from(detail: BadRequest) -> Self {
        Any { type_url: BAD_REQUEST.into(), value: detail.encode_to_vec() }
    }
}

/// A status without details.
pub fn plain(code: Code, message: impl Into<String>) -> rpc::Status {
    rpc::Status { code: code as i32, message: message.into(), details: Vec::new() }
}

/// INVALID_ARGUMENT for a message that breaks a rule, with a [`BadRequest`].
pub fn invalid(invalid: &Invalid) -> rpc::Status {
    let violation =
        FieldViolation { field: invalid.field.clone(), description: invalid.what.clone() };
    let details = vec![BadRequest { field_violations: vec![violation] }.into()];
    rpc::Status { details, ..plain(Code::InvalidArgument, invalid.to_string()) }
}

/// FAILED_PRECONDITION for blobs that must be uploaded first, with a [`PreconditionFailure`] that names
/// each once.
pub fn missing(digests: &[Digest]) -> rpc::Status {
    missing_at_most(digests, usize::MAX)
}

/// As [`missing`], with details of `most` blobs at the most.
pub fn missing_at_most(digests: &[Digest], most: usize) -> rpc::Status {
    let mut digests = digests.to_vec();
    digests.sort();
    digests.dedup();
    let first: Vec<_> = digests.iter().take(NAMED).map(Digest::to_string).collect();
    let more = match digests.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!("blobs that are needed are not stored: {}{more}", first.join(", "));
    let violations = digests.iter().take(most).map(|digest| PreconditionViolation {
        r#type: "MISSING".into(),
        subject: missing_subject(*digest),
        description: String::new(),
    });
    let details = vec![PreconditionFailure { violations: violations.collect() }.into()];
    rpc::Status { details, ..plain(Code::FailedPrecondition, message) }
}

/// The name of a blob in a [`PreconditionViolation`]: its resource name without the instance (comment of
/// `Execution.Execute`).
pub fn missing_subject(digest: Digest) -> String {
    // The text of a digest names its function exactly where resource names do.
    format!("blobs/{digest}")
}

#[cfg(test)]
mod tests {
    use bbb_digest::Function;

    use super::*;

    #[test]
    fn every_missing_blob_is_named_once() {
        let digest = Digest::of(Function::Sha256, b"x");
        let other = Digest::of(Function::Blake3, b"xy");
        let status = missing(&[digest, other, digest]);
        assert_eq!(status.code, 9);
        assert_eq!(status.details[0].type_url, PRECONDITION_FAILURE);
        let detail = PreconditionFailure::decode(status.details[0].value.as_slice()).unwrap();
        let subjects: Vec<_> = detail.violations.iter().map(|v| v.subject.as_str()).collect();
        let hex = (digest.hex(), other.hex());
        let (sha256, blake3) = (format!("blobs/{}/1", hex.0), format!("blobs/blake3/{}/2", hex.1));
        assert_eq!(subjects, [sha256, blake3]);
        assert!(detail.violations.iter().all(|violation| violation.r#type == "MISSING"));
    }

    #[test]
    fn a_message_for_people_stays_short() {
        let digests: Vec<_> =
            (0..100u32).map(|i| Digest::of(Function::Sha256, &i.to_be_bytes())).collect();
        let status = missing(&digests);
        assert!(status.message.ends_with("and 97 more"), "{}", status.message);
        assert!(status.message.len() < 400);
        let few = missing_at_most(&digests, 7);
        assert_eq!(few.message, status.message);
        let detail = PreconditionFailure::decode(few.details[0].value.as_slice()).unwrap();
        assert_eq!(detail.violations.len(), 7);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let status = invalid(&Invalid::new("command.arguments", "is empty"));
        assert_eq!((status.code, status.message.as_str()), (3, "command.arguments: is empty"));
        assert_eq!(status.details[0].type_url, BAD_REQUEST);
        let detail = BadRequest::decode(status.details[0].value.as_slice()).unwrap();
        assert_eq!(detail.field_violations[0].field, "command.arguments");
    }
}
