//! What kind of request one is to an S3 server, which is also what it costs.

use std::fmt;

use http::{HeaderMap, Method, Uri};

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Reads an object or a range of it.
    Get,
    /// Asks whether there is an object.
    Head,
    /// Writes an object whole.
    Put,
    /// Writes a part of an object.
    Part,
    /// Copies an object, on itself as well.
    Copy,
    /// Lists keys.
    List,
    /// Deletes one object.
    Delete,
    /// Deletes a list of objects.
    DeleteMany,
    /// Begins an upload in parts.
    Begin,
    /// Completes an upload in parts: its object becomes visible.
    Complete,
    /// Gives an upload in parts up.
    Abort,
    /// Anything else.
    Other,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Part,
        Self::Copy,
        Self::List,
        Self::Delete,
        Self::DeleteMany,
        Self::Begin,
        Self::Complete,
        Self::Abort,
        Self::Other,
    ];

    /// The kind of a request, by the rules of the S3 API.
    pub fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let has = |name| parameters(uri).any(|(key, _)| key == name);
        match *method {
            Method::GET if ["list-type", "prefix", "delimiter"].into_iter().any(has) => Self::List,
            Method::GET if !has("uploads") && !has("uploadId") && !has("location") => Self::Get,
            Method::HEAD => Self::Head,
            Method::PUT if headers.contains_key("x-amz-copy-source") => Self::Copy,
            Method::PUT if has("uploadId") => Self::Part,
            Method::PUT => Self::Put,
            Method::POST if has("uploads") => Self::Begin,
            Method::POST if has("uploadId") => Self::Complete,
            Method::POST if has("delete") => Self::DeleteMany,
            Method::DELETE if has("uploadId") => Self::Abort,
            Method::DELETE => Self::Delete,
            _ => Self::Other,
        }
    }

    /// Whether it takes room in the bucket.
    pub const fn adds(self) -> bool {
        matches!(self, Self::Put | Self::Part | Self::Copy | Self::Begin | Self::Complete)
    }

    /// Its name in counts and in `only=`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Part => "part",
            Self::Copy => "copy",
            Self::List => "list",
            Self::Delete => "delete",
            Self::DeleteMany => "delete_many",
            Self::Begin => "begin",
            Self::Complete => "complete",
            Self::Abort => "abort",
            Self::Other => "other",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The parameters of a query, as they stand there; one without a value has an empty one.
pub(super) fn parameters(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    let parts = uri.query().unwrap_or("").split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(method: Method, uri: &'static str) -> Kind {
        Kind::of(&method, &Uri::from_static(uri), &HeaderMap::new())
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(kind(Method::GET, "/bucket/key"), Kind::Get);
        assert_eq!(kind(Method::GET, "/bucket/?list-type=2&prefix=v1"), Kind::List);
        assert_eq!(kind(Method::GET, "/bucket?uploads"), Kind::Other);
        assert_eq!(kind(Method::HEAD, "/bucket/key"), Kind::Head);
        assert_eq!(kind(Method::PUT, "/bucket/key"), Kind::Put);
        assert_eq!(kind(Method::PUT, "/bucket/key?partNumber=1&uploadId=x"), Kind::Part);
        assert_eq!(kind(Method::POST, "/bucket/key?uploads"), Kind::Begin);
        assert_eq!(kind(Method::POST, "/bucket/key?uploads="), Kind::Begin);
        assert_eq!(kind(Method::POST, "/bucket/key?uploadId=x"), Kind::Complete);
        assert_eq!(kind(Method::POST, "/bucket?delete"), Kind::DeleteMany);
        assert_eq!(kind(Method::DELETE, "/bucket/key"), Kind::Delete);
        assert_eq!(kind(Method::DELETE, "/bucket/key?uploadId=x"), Kind::Abort);
    }

    #[test]
    fn a_copy_is_no_put() {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-amz-copy-source"),
            http::HeaderValue::from_static("/bucket/other"),
        )]);
        let uri = Uri::from_static("/bucket/key");
        assert_eq!(Kind::of(&Method::PUT, &uri, &headers), Kind::Copy);
    }

    #[test]
    fn names_are_found_again() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::named("steal"), None);
    }
}
