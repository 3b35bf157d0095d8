//! The S3 protocol's own words for errors, read where they come in.
//!
//! The library below tells errors apart by their HTTP status alone, and not all of that reaches its
//! callers. That a bucket is gone must not look like an object that is not there, and a bucket that is
//! full is no server error. So every answer passes here first.

use std::fmt;

use async_trait::async_trait;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpService, ReqwestConnector,
    },
};

use super::retry::Verdict;

/// How much of an error's body is read.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server answers {status} {code} {message}")]
pub(crate) struct ServerFault {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The protocol's name for the error; empty if there is none.
    pub(crate) code: String,
    /// What the server has to say to people.
    pub(crate) message: String,
}

impl ServerFault {
    /// What it means to the caller.
    pub(super) fn verdict(&self) -> Verdict {
        match (self.status, self.code.as_str()) {
            // By MinIO, Ceph, Garage and others.
            (507, _)
            | (
                _,
                "QuotaExceeded"
                | "XMinioStorageFull"
                | "XMinioAdminBucketQuotaExceeded"
                | "InsufficientStorage"
                | "StorageFull"
                | "ServiceQuotaExceeded",
            ) => Verdict::Full,
            (_, "SlowDown" | "Throttling" | "ThrottlingException" | "TooManyRequests")
            | (429, _) => Verdict::Throttled,
            (_, "NoSuchBucket") => Verdict::NoBucket,
            (404, "NoSuchUpload") => Verdict::Missing,
            (_, "RequestTimeout" | "BadDigest" | "IncompleteBody") => Verdict::Fault,
            (408 | 409 | 425, _) => Verdict::Fault,
            (300..=499, _) => Verdict::Refused,
            _ => Verdict::Fault,
        }
    }
}

/// Connects as the library does, and reads errors.
#[derive(Debug, Default)]
pub(super) struct Wire(ReqwestConnector);

impl HttpConnector for Wire {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct Service(HttpClient);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_head = request.method().as_str() == "HEAD";
        let response = self.0.execute(request).await?;
        let status = response.status().as_u16();
        // What the library makes something of itself.
        let is_plain = status < 300 || matches!(status, 304 | 412) || status == 404 && is_head;
        if is_plain {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        // A body that breaks off does not change that this is an error.
        let body = body.bytes().await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR_BYTES)]);
        let code = element(&text, "Code").unwrap_or_default().to_owned();
        let is_missing_object =
            status == 404 && matches!(code.as_str(), "" | "NoSuchKey" | "NoSuchVersion");
        if is_missing_object || status == 409 && code != "OperationAborted" {
            return Ok(HttpResponse::from_parts(parts, Vec::from(body).into()));
        }
        let message = element(&text, "Message").unwrap_or_default().to_owned();
        let fault = ServerFault { status, code, message };
        Err(HttpError::new(HttpErrorKind::Unknown, fault))
    }
}

/// What stands in the first element of this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wire")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_in_errors() {
        let xml = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please\n</Message></Error>";
        assert_eq!(element(xml, "Code"), Some("SlowDown"));
        assert_eq!(element(xml, "Message"), Some("Please"));
        assert_eq!(element(xml, "Resource"), None);
        assert_eq!(element("<Code>cut", "Code"), None);
    }
}
