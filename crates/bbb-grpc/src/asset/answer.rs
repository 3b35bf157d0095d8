//! What a client is told of a fetch.

use bbb_asset::{Failed, FetchError, Found};
use bbb_digest::Function;
use bbb_reapi::{ToProto as _, function_code, proto::asset::FetchBlobResponse, to_timestamp};
use tonic::Status;

use crate::status::{
    IntoStatus as _, aborted, deadline_exceeded, exhausted, not_found, ok_message,
    permission_denied,
};

/// The response for what became of a fetch of `uris`. What went wrong outside is in its status; all else ends the call.
pub(super) fn answer(
    uris: Vec<String>,
    function: Function,
    outcome: Result<Found, FetchError>,
) -> Result<FetchBlobResponse, Status> {
    let (status, uri, content, expires) = match outcome {
        Ok(Found { uri, content, expires }) => (ok_message(), uri, Some(content), expires),
        Err(FetchError::Outside { failed, uri, what }) => {
            (to_status(failed, what).into_message(), uri, None, None)
        }
        Err(error) => return Err(error.into_status()),
    };
    Ok(FetchBlobResponse {
        status: Some(status),
        uri: uris.into_iter().nth(uri).unwrap_or_default(),
        qualifiers: Vec::new(),
        expires_at: expires.map(to_timestamp),
        blob_digest: content.map(|digest| digest.to_proto()),
        digest_function: function_code(function) as i32,
    })
}

fn to_status(failed: Failed, what: String) -> Status {
    match failed {
        Failed::NotFound => not_found(what),
        Failed::Denied => permission_denied(what),
        Failed::Aborted => aborted(what),
        Failed::TooLate => deadline_exceeded(what),
        Failed::Exhausted => exhausted("origin", what),
    }
}
