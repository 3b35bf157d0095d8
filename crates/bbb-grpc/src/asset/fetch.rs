//! What a client is told of a fetch.

use std::time::SystemTime;

use bbb_asset::{Failed, Fetch, Found};
use bbb_digest::{Digest, Function};
use bbb_reapi::{
    ToProto as _, function_code,
    proto::{
        asset::{FetchBlobResponse, FetchDirectoryResponse},
        rpc,
    },
    to_timestamp,
};

use crate::status::{
    IntoStatus as _, aborted, deadline_exceeded, exhausted, not_found, ok_message,
    permission_denied,
};

/// Both responses in one.
pub(super) struct Told {
    uris: Vec<String>,
    function: Function,
    status: rpc::Status,
    uri: String,
    content: Option<Digest>,
    expires: Option<SystemTime>,
}

impl Told {
    pub(super) fn of(fetch: &Fetch) -> Self {
        Self {
            uris: fetch.uris.iter().map(|uri| uri.given().to_owned()).collect(),
            function: fetch.function,
            status: ok_message(),
            uri: String::new(),
            content: None,
            expires: None,
        }
    }

    pub(super) fn found(self, found: &Found) -> Self {
        let uri = self.uris.get(found.uri).cloned().unwrap_or_default();
        Self { uri, content: Some(found.content), expires: found.expires, ..self }
    }

    pub(super) fn failed(self, failed: Failed, uri: usize, what: String) -> Self {
        let status = match failed {
            Failed::NotFound => not_found(what),
            Failed::Denied => permission_denied(what),
            Failed::Aborted => aborted(what),
            Failed::TooLate => deadline_exceeded(what),
            Failed::Exhausted => exhausted("origin", what),
        };
        let uri = self.uris.get(uri).cloned().unwrap_or_default();
        Self { status: status.into_message(), uri, ..self }
    }

    pub(super) fn into_blob(self) -> FetchBlobResponse {
        FetchBlobResponse {
            status: Some(self.status),
            uri: self.uri,
            qualifiers: Vec::new(),
            expires_at: self.expires.map(to_timestamp),
            blob_digest: self.content.map(|digest| digest.to_proto()),
            digest_function: function_code(self.function) as i32,
        }
    }

    pub(super) fn into_directory(self) -> FetchDirectoryResponse {
        FetchDirectoryResponse {
            status: Some(self.status),
            uri: self.uri,
            qualifiers: Vec::new(),
            expires_at: self.expires.map(to_timestamp),
            root_directory_digest: self.content.map(|digest| digest.to_proto()),
            digest_function: function_code(self.function) as i32,
        }
    }
}
