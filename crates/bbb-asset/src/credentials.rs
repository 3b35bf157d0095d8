//! Headers that a client has its assets fetched with. Most of them let somebody in, so that none is ever shown, logged or
//! remembered.

use std::fmt;

use bbb_digest::{Digest, Function};
use bbb_reapi::Invalid;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;

use crate::AssetUri;

/// How many headers a request may ask for.
const MAX_HEADERS: usize = 256;

/// Headers that are this side's to set: framing, and what makes a fetch resumable or conditional.
const OURS: [HeaderName; 17] = [
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The headers for the URIs of one request.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// For every URI.
    all: Vec<(HeaderName, HeaderValue)>,
    /// For the URI of this index, in place of those for all.
    one: Vec<(usize, HeaderName, HeaderValue)>,
}

impl Credentials {
    pub(crate) fn add_for_all(
        &mut self,
        field: &str,
        name: &str,
        value: &str,
    ) -> Result<(), Invalid> {
        let (name, value) = header(field, name, value)?;
        self.all.push((name, value));
        self.check_count(field)
    }

    /// `http_header_url:INDEX:NAME`.
    pub(crate) fn add_for_one(
        &mut self,
        field: &str,
        index_and_name: &str,
        value: &str,
        uris: usize,
    ) -> Result<(), Invalid> {
        let split = index_and_name.split_once(':');
        let index = split.and_then(|(index, name)| Some((index.parse::<usize>().ok()?, name)));
        let Some((index, name)) = index.filter(|(index, _)| *index < uris) else {
            let what = "is no http_header_url:INDEX:NAME whose index is that of a URI";
            return Err(Invalid::new(field, what));
        };
        let (name, value) = header(field, name, value)?;
        self.one.push((index, name, value));
        self.check_count(field)
    }

    /// `bazel.auth_headers`: a JSON object of URLs, of objects of headers.
    pub(crate) fn add_by_url(
        &mut self,
        field: &str,
        json: &str,
        uris: &[AssetUri],
    ) -> Result<(), Invalid> {
        let what = "is no JSON object that holds objects of headers by URL";
        let invalid = || Invalid::new(field, what);
        // An error of the parser would show a part of what it read.
        let by_url: Value = serde_json::from_str(json).map_err(|_| invalid())?;
        for (url, headers) in by_url.as_object().ok_or_else(invalid)? {
            let url = AssetUri::parse(field, url)?;
            let headers = headers.as_object().ok_or_else(invalid)?;
            for (name, value) in headers {
                let (name, value) = header(field, name, value.as_str().ok_or_else(invalid)?)?;
                let same = |(_, uri): &(usize, &AssetUri)| uri.name() == url.name();
                for (index, _) in uris.iter().enumerate().filter(same) {
                    self.one.push((index, name.clone(), value.clone()));
                }
                self.check_count(field)?;
            }
        }
        Ok(())
    }

    /// What stood in the URIs themselves, where no header says otherwise.
    pub(crate) fn add_logins(&mut self, uris: &[AssetUri]) {
        for (index, uri) in uris.iter().enumerate() {
            if let Some(login) = uri.login()
                && !self.headers(index).contains_key(header::AUTHORIZATION)
            {
                self.one.push((index, header::AUTHORIZATION, login.clone()));
            }
        }
    }

    fn check_count(&self, field: &str) -> Result<(), Invalid> {
        match self.all.len() + self.one.len() > MAX_HEADERS {
            true => Err(Invalid::new(field, format!("makes more than {MAX_HEADERS} headers"))),
            false => Ok(()),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.one.is_empty()
    }

    /// The headers for the URI of this index.
    pub(crate) fn headers(&self, index: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.all {
            headers.insert(name, value.clone());
        }
        for (_, name, value) in self.one.iter().filter(|(of, ..)| *of == index) {
            headers.insert(name, value.clone());
        }
        headers
    }

    /// What tells them from others, for as long as this process runs, and gives nothing away of them.
    pub(crate) fn fingerprint(&self) -> Digest {
        let mut bytes = Vec::new();
        let mut add = |index: u64, name: &HeaderName, value: &HeaderValue| {
            bytes.extend_from_slice(&index.to_le_bytes());
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
                bytes.extend_from_slice(part);
            }
        };
        self.all.iter().for_each(|(name, value)| add(u64::MAX, name, value));
        self.one.iter().for_each(|(index, name, value)| add(*index as u64, name, value));
        Digest::of(Function::Sha256, &bytes)
    }
}

/// Checks a header. What is told of a bad one is its name alone.
fn header(field: &str, name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Invalid> {
    let name: HeaderName =
        name.parse().map_err(|_| Invalid::new(field, "names a header that cannot be one"))?;
    if OURS.contains(&name) {
        return Err(Invalid::new(
            field,
            format!("asks for the header {name}, which is not a client's to set"),
        ));
    }
    let value = HeaderValue::from_str(value);
    let mut value =
        value.map_err(|_| Invalid::new(field, format!("has a value that {name} cannot have")))?;
    value.set_sensitive(true);
    Ok((name, value))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} headers)", self.all.len() + self.one.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uris() -> Vec<AssetUri> {
        ["https://a/x", "https://me:pw@b/y", "https://c/z"]
            .map(|uri| AssetUri::parse("uris", uri).unwrap())
            .into()
    }

    #[test]
    fn what_is_said_of_one_url_goes_before_what_is_said_of_all() {
        let mut credentials = Credentials::default();
        credentials.add_for_all("q", "X-Token", "all").unwrap();
        credentials.add_for_one("q", "2:x-token", "third", 3).unwrap();
        let json =
            r#"{"https://a/x": {"Authorization": "Basic xyz"}, "https://other/": {"a": "b"}}"#;
        credentials.add_by_url("q", json, &uris()).unwrap();
        credentials.add_logins(&uris());
        let of = |index: usize, name: &str| {
            credentials.headers(index).get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(of(0, "x-token").unwrap(), "all");
        assert_eq!(of(0, "authorization").unwrap(), "Basic xyz");
        assert_eq!(of(1, "authorization").unwrap(), "Basic bWU6cHc=");
        assert_eq!(of(2, "x-token").unwrap(), "third");
        assert_eq!((of(2, "authorization"), of(2, "a")), (None, None));
    }

    #[test]
    fn nothing_of_them_is_shown() {
        let mut credentials = Credentials::default();
        credentials.add_for_all("q", "X-Token", "secret").unwrap();
        assert_eq!(format!("{credentials:?}"), "Credentials(1 headers)");
        assert!(!format!("{:?}", credentials.headers(0)).contains("secret"));
        let bad = credentials.add_for_all("q", "X-Token", "secret\r\nHost: x").unwrap_err();
        assert!(!bad.to_string().contains("secret"), "{bad}");
        let bad = credentials.add_by_url("q", r#"{"https://a/x": "secret"#, &uris()).unwrap_err();
        assert!(!bad.to_string().contains("secret"), "{bad}");
    }

    #[test]
    fn what_is_ours_to_set_is_refused() {
        let mut credentials = Credentials::default();
        for name in ["Host", "range", "Content-Length", "Transfer-Encoding", "bad name", ""] {
            assert!(credentials.add_for_all("q", name, "x").is_err(), "{name}");
        }
        for name in ["3:a", "x:a", "1", "-1:a", "0:"] {
            assert!(credentials.add_for_one("q", name, "x", 3).is_err(), "{name}");
        }
        for json in ["", "[]", "{\"https://a/x\": []}", "{\"https://a/x\": {\"a\": 1}}"] {
            assert!(credentials.add_by_url("q", json, &uris()).is_err(), "{json}");
        }
        assert!(credentials.is_empty());
    }
}
