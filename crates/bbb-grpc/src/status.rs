//! From what went wrong in any room to what a client is told: the one file that makes a [`Status`].
//!
//! Each error of the rooms below becomes the code that tells the client what to do next, with the details
//! of `google.rpc` that the Remote Execution API asks for; what workers say too comes from
//! [`bbb_reapi::status`]. Nothing here reads a string to decide.
//!
//! A status travels in two forms: as the trailers of a call ([`Status`]), whose details must stay small
//! since clients bound the headers that they take, and as a message within a response
//! ([`IntoStatus::into_message`]), which holds all there is to say.

use std::time::Duration;

use bbb_asset::FetchError;
use bbb_digest::Digest;
use bbb_reapi::{Invalid, proto::rpc, status as words};
use bbb_storage::{Error, LogError, TreeError};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, QuotaViolation, StatusExt as _};

/// How many blobs a call's trailers name at the most. gRPC's Java library takes 8 KiB of headers, and one
/// blob is some 130 bytes of them.
pub(crate) const MAX_VIOLATIONS_IN_TRAILERS: usize = 40;

/// The longest message of a status, in bytes, for the same reason.
const MAX_MESSAGE_BYTES: usize = 1024;

/// When a client may try again after a fault of a store.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// When a client may try again after it met a limit: room comes back as others finish.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(2);

/// What can be told to a client.
pub trait IntoStatus: Sized {
    /// As the end of a call.
    fn into_status(self) -> Status;

    /// As a message within a response.
    fn into_message(self) -> rpc::Status {
        to_message(&self.into_status())
    }
}

impl IntoStatus for Status {
    fn into_status(self) -> Status {
        self
    }
}

/// A broken rule is INVALID_ARGUMENT with a `BadRequest` that names the field.
impl IntoStatus for Invalid {
    fn into_status(self) -> Status {
        from_message(words::invalid(&Self::new(cut(self.field), cut(self.what))))
    }
}

impl IntoStatus for Error {
    fn into_status(self) -> Status {
        let message = self.to_string();
        match self {
            Self::Missing(_) => not_found(message),
            Self::Incomplete(missing) => missing_inputs(&missing),
            Self::Mismatch { .. } => Invalid::new("data", message).into_status(),
            Self::Unreadable { .. } => Invalid::new("data", message).into_status(),
            Self::BrokenOff { source, .. } => match source.downcast::<Status>() {
                // The sender's side may have said itself what was wrong.
                Ok(status) => status,
                Err(error) => aborted(format!("{message}: {error}")),
            },
            Self::Full { .. } => exhausted("storage", message),
            Self::Unavailable { source, .. } => {
                tracing::warn!(error = %source, "{message}");
                unavailable(format!("{message}: {source}"))
            }
        }
    }
}

impl IntoStatus for TreeError {
    fn into_status(self) -> Status {
        match self {
            Self::Storage(error) => error.into_status(),
            Self::Invalid { digest, invalid } => {
                let Invalid { field, what } = *invalid;
                Invalid::new(field, format!("{what} (in {digest})")).into_status()
            }
        }
    }
}

/// What ends a call of the Remote Asset API's Fetch; what an origin answers is told within its response.
impl IntoStatus for FetchError {
    fn into_status(self) -> Status {
        let message = self.to_string();
        match self {
            Self::Unsupported(names) => {
                // In the words of the comment of `Fetch`.
                let named = names.iter().take(MAX_VIOLATIONS_IN_TRAILERS).map(|name| {
                    let what = format!("\"{}\" not supported", cut(name.to_string()));
                    FieldViolation::new("qualifiers.name", what)
                });
                let details = ErrorDetails::with_bad_request(named.collect::<Vec<_>>());
                detailed(Code::InvalidArgument, message, details)
            }
            Self::Outside { .. } => not_found(message),
            Self::Invalid(invalid) => invalid.into_status(),
            // Nothing changes by another try, as it may where the API says that clients should retry.
            Self::NoGit => failed_precondition(message),
            Self::Storage(error) => error.again().into_status(),
            Self::Busy => exhausted("fetches", message),
            Self::Stopping => unavailable(message),
        }
    }
}

/// The codes are those that other nodes read back: see `bbb_peer::SharedLogs`.
impl IntoStatus for LogError {
    fn into_status(self) -> Status {
        let message = self.to_string();
        match self {
            Self::Unknown => not_found(message),
            Self::OutOfRange { .. } => out_of_range(message),
            Self::WrongOffset { .. } => Invalid::new("write_offset", message).into_status(),
            Self::Ended => failed_precondition(message),
            Self::Full(_) => exhausted("logs", message),
            Self::Cut => Status::new(Code::DataLoss, cut(message)),
            Self::Leaving => unavailable(message),
            Self::Storage(error) => error.into_status(),
        }
    }
}

/// FAILED_PRECONDITION with a `PreconditionFailure` of type `MISSING` for each blob, as the comment of
/// `Execution.Execute` asks for. Names as many as a call's trailers hold; the message within a response
/// is [`missing_inputs_message`].
pub fn missing_inputs(missing: &[Digest]) -> Status {
    from_message(words::missing_at_most(missing, MAX_VIOLATIONS_IN_TRAILERS))
}

/// As [`missing_inputs`], with every blob named.
pub fn missing_inputs_message(missing: &[Digest]) -> rpc::Status {
    words::missing(missing)
}

/// NOT_FOUND.
pub fn not_found(what: impl Into<String>) -> Status {
    Status::new(Code::NotFound, cut(what.into()))
}

/// OUT_OF_RANGE.
pub fn out_of_range(what: impl Into<String>) -> Status {
    Status::new(Code::OutOfRange, cut(what.into()))
}

/// ALREADY_EXISTS.
pub fn already_exists(what: impl Into<String>) -> Status {
    Status::new(Code::AlreadyExists, cut(what.into()))
}

/// FAILED_PRECONDITION: the call makes no sense in the state in which things are.
pub fn failed_precondition(what: impl Into<String>) -> Status {
    Status::new(Code::FailedPrecondition, cut(what.into()))
}

/// ABORTED: somebody else was faster; the client may begin again.
pub fn aborted(what: impl Into<String>) -> Status {
    Status::new(Code::Aborted, cut(what.into()))
}

/// CANCELLED.
pub fn cancelled(what: impl Into<String>) -> Status {
    Status::new(Code::Cancelled, cut(what.into()))
}

/// DEADLINE_EXCEEDED.
pub fn deadline_exceeded(what: impl Into<String>) -> Status {
    Status::new(Code::DeadlineExceeded, cut(what.into()))
}

/// PERMISSION_DENIED: not for this client, however it asks.
pub fn permission_denied(what: impl Into<String>) -> Status {
    Status::new(Code::PermissionDenied, cut(what.into()))
}

/// UNAUTHENTICATED: the client did not show what it must.
pub fn unauthenticated(what: impl Into<String>) -> Status {
    Status::new(Code::Unauthenticated, cut(what.into()))
}

/// UNIMPLEMENTED.
pub fn unimplemented(what: impl Into<String>) -> Status {
    Status::new(Code::Unimplemented, cut(what.into()))
}

/// INTERNAL: a fault of ours, not of what was asked.
pub fn internal(what: impl Into<String>) -> Status {
    Status::new(Code::Internal, cut(what.into()))
}

/// UNAVAILABLE with a `RetryInfo`: the client may try again soon.
pub fn unavailable(what: impl Into<String>) -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    detailed(Code::Unavailable, what.into(), details)
}

/// RESOURCE_EXHAUSTED with a `QuotaFailure` of `subject` and a `RetryInfo`.
pub fn exhausted(subject: &str, what: impl Into<String>) -> Status {
    let what = what.into();
    let violation = QuotaViolation::new(subject, cut(what.clone()));
    let mut details = ErrorDetails::with_quota_failure(vec![violation]);
    details.set_retry_info(Some(RETRY_AFTER_FULL));
    detailed(Code::ResourceExhausted, what, details)
}

/// The message that says OK.
pub fn ok_message() -> rpc::Status {
    rpc::Status::default()
}

/// A status of a call as a message within a response, details and all.
pub fn to_message(status: &Status) -> rpc::Status {
    // The details of a status are an encoded message of the same type.
    let details = rpc::Status::decode(status.details()).unwrap_or_default().details;
    rpc::Status { code: status.code() as i32, message: status.message().to_owned(), details }
}

/// The other way: a message with its details as the end of a call.
fn from_message(mut message: rpc::Status) -> Status {
    message.message = cut(message.message);
    let details = message.encode_to_vec().into();
    Status::with_details(Code::from(message.code), message.message, details)
}

fn detailed(code: Code, message: String, details: ErrorDetails) -> Status {
    Status::with_error_details(code, cut(message), details)
}

fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    message
}

#[cfg(test)]
mod tests {
    use std::io;

    use bbb_digest::Function;

    use super::*;

    fn digest(index: usize) -> Digest {
        Digest::of(Function::Sha256, index.to_string().as_bytes())
    }

    #[test]
    fn a_broken_rule_names_its_field() {
        let status = Invalid::new("action_digest.hash", "is bad").into_status();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "action_digest.hash");
    }

    #[test]
    fn a_node_without_git_says_what_to_install() {
        let status = FetchError::NoGit.into_status();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("install git"), "{status}");
    }

    #[test]
    fn every_missing_blob_is_named_where_there_is_room() {
        let missing: Vec<_> = (0..1000).map(digest).collect();
        let message = missing_inputs_message(&missing);
        assert_eq!(message.code, Code::FailedPrecondition as i32);
        let any = &message.details[0];
        assert_eq!(any.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
        let trailers = missing_inputs(&missing);
        assert!(trailers.details().len() < 5500, "{} bytes", trailers.details().len());
        let details = trailers.get_error_details();
        let violations = &details.precondition_failure().unwrap().violations;
        assert_eq!(violations.len(), MAX_VIOLATIONS_IN_TRAILERS);
        assert_eq!(violations[0].r#type, "MISSING");
        let first = missing.iter().min().unwrap();
        assert_eq!(violations[0].subject, format!("blobs/{first}"));
        assert_eq!(trailers.message(), message.message);
        let whole = Status::with_details(Code::Unknown, "", message.encode_to_vec().into());
        let whole = whole.get_error_details();
        assert_eq!(whole.precondition_failure().unwrap().violations.len(), 1000);
    }

    #[test]
    fn a_fault_is_no_miss() {
        let error = Error::unavailable("reading", io::Error::other("disk on fire"));
        let status = error.into_status();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.get_error_details().retry_info().is_some());
        assert_eq!(Error::Missing(digest(1)).into_status().code(), Code::NotFound);
    }

    #[test]
    fn a_full_store_says_when_to_try_again() {
        let status = Error::Full { size_bytes: 7, what: "disk".into() }.into_status();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_error_details().retry_info().is_some());
    }

    #[test]
    fn what_the_sender_said_of_itself_stands() {
        let source = io::Error::other(Status::invalid_argument("offset is wrong"));
        let status = Error::BrokenOff { digest: digest(1), source }.into_status();
        assert_eq!(status.message(), "offset is wrong");
        let source = io::Error::other("connection reset");
        let status = Error::BrokenOff { digest: digest(1), source }.into_status();
        assert_eq!(status.code(), Code::Aborted);
    }

    #[test]
    fn long_messages_are_cut() {
        assert_eq!(not_found("ü".repeat(5000)).message().len(), MAX_MESSAGE_BYTES);
    }
}
