//! The header that every client request must carry, where `--required_header` asks for one.

use std::{fmt, str::FromStr};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use subtle::ConstantTimeEq as _;

use crate::{doors::is_grpc, status::unauthenticated, wire::refuse};

/// A header's name and the value that it must have.
#[derive(Clone)]
pub struct RequiredHeader {
    name: HeaderName,
    value: HeaderValue,
}

/// Why a text is no `name=value` of a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequiredHeaderError {
    /// There is no `=`.
    #[error("has the form name=value")]
    Form,
    /// The name is none that HTTP takes.
    #[error("has a name that HTTP does not take: {0:?}")]
    Name(String),
    /// The value is empty or none that HTTP takes.
    #[error("has a value that is empty or that HTTP does not take")]
    Value,
}

impl FromStr for RequiredHeader {
    type Err = RequiredHeaderError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or(RequiredHeaderError::Form)?;
        let bad_name = || RequiredHeaderError::Name(name.to_owned());
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad_name())?;
        let value = HeaderValue::from_str(value).map_err(|_| RequiredHeaderError::Value)?;
        match value.is_empty() {
            true => Err(RequiredHeaderError::Value),
            false => Ok(Self { name, value }),
        }
    }
}

impl RequiredHeader {
    /// Whether the headers hold it. How long this takes does not tell where a wrong value differs.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let wanted = self.value.as_bytes();
        headers
            .get_all(&self.name)
            .iter()
            .fold(false, |found, value| found | bool::from(value.as_bytes().ct_eq(wanted)))
    }

    /// The answer to a request without it; none where it is there.
    pub(crate) fn refusal(&self, request: &Request<Body>) -> Option<Response> {
        if self.is_in(request.headers()) {
            return None;
        }
        let name = &self.name;
        let what = format!(
            "this server wants the header {name} with its value; with Bazel: \
             --remote_header={name}=VALUE"
        );
        Some(match is_grpc(request.headers()) {
            true => refuse(unauthenticated(what)),
            false => (StatusCode::UNAUTHORIZED, what + "\n").into_response(),
        })
    }
}

/// Tells the name alone: the value is a secret.
impl fmt::Debug for RequiredHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequiredHeader({}=...)", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_name_and_a_value() {
        for bad in ["x", "=v", "a b=v", "x=", "x=a\nb"] {
            assert!(bad.parse::<RequiredHeader>().is_err(), "{bad:?}");
        }
        let header: RequiredHeader = "X-Key=a=b".parse().unwrap();
        assert!(!format!("{header:?}").contains("a=b"));
        let mut headers = HeaderMap::new();
        assert!(!header.is_in(&headers));
        headers.append("x-key", HeaderValue::from_static("a=c"));
        assert!(!header.is_in(&headers));
        headers.append("x-key", HeaderValue::from_static("a=b"));
        assert!(header.is_in(&headers));
    }
}
