//! URIs of assets, parsed once.

use std::fmt;

use base64::Engine as _;
use bbb_reapi::Invalid;
use http::HeaderValue;
use url::Url;

/// The longest URI, in bytes.
const MAX_URI_BYTES: usize = 8 << 10;

/// What an asset is called: a URI without what lets somebody in.
///
/// `Display` is for logs and stories: a query, which may hold a signature, is not in it.
#[derive(Clone, PartialEq, Eq)]
pub struct AssetUri {
    /// As the client wrote it, to be told back to this client alone.
    given: Box<str>,
    /// What is remembered, as part of a hash: in the normal form where it is a URL, and without user, password and fragment.
    name: Box<str>,
    url: Option<Url>,
    login: Option<HeaderValue>,
}

impl AssetUri {
    /// Reads a URI.
    ///
    /// # Errors
    /// If it has no scheme, is too long, or is none; `field` says which it is.
    pub fn parse(field: &str, given: &str) -> Result<Self, Invalid> {
        if given.len() > MAX_URI_BYTES {
            return Err(Invalid::new(field, format!("is longer than {MAX_URI_BYTES} bytes")));
        }
        if given.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(Invalid::new(field, "holds white space or control characters"));
        }
        if !has_scheme(given) {
            return Err(Invalid::new(field, "has no scheme"));
        }
        let scheme = given.split(':').next().unwrap_or_default();
        let is_http = ["http", "https"].iter().any(|http| scheme.eq_ignore_ascii_case(http));
        let mut url = match Url::parse(given) {
            Ok(url) => Some(url),
            Err(error) if is_http => {
                return Err(Invalid::new(field, format!("is no URL: {error}")));
            }
            Err(_) => None,
        };
        let login = url.as_ref().and_then(login);
        if let Some(url) = &mut url {
            // These fail for URLs that cannot have any of it.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.set_fragment(None);
        }
        let name = match &url {
            Some(url) if is_http || login.is_some() => url.as_str(),
            _ => given,
        };
        Ok(Self { given: given.into(), name: name.into(), login, url: url.filter(|_| is_http) })
    }

    /// As the client wrote it.
    pub fn given(&self) -> &str {
        &self.given
    }

    /// What stands for it where it is remembered.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where to fetch it from by http or https, if it can be.
    pub fn url(&self) -> Option<&Url> {
        self.url.as_ref()
    }

    /// The user and password that stood in it, as the header that they make.
    pub(crate) fn login(&self) -> Option<&HeaderValue> {
        self.login.as_ref()
    }
}

fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        let mut letters = scheme.bytes();
        letters.next().is_some_and(|first| first.is_ascii_alphabetic())
            && letters.all(|c| c.is_ascii_alphanumeric() || b"+.-".contains(&c))
    })
}

/// User and password as RFC 7617 has them.
pub(crate) fn login(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let pair = [url.username(), ":", url.password().unwrap_or_default()].concat();
    let pair: Vec<u8> = percent_encoding::percent_decode_str(&pair).collect();
    let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A URL as it may be logged and told: no query, nothing that lets somebody in.
pub(crate) fn shown(url: &Url) -> String {
    match url.host_str() {
        Some(host) => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{host}{port}{}", url.scheme(), url.path())
        }
        None if url.cannot_be_a_base() => format!("{}:", url.scheme()),
        None => url.as_str().split('?').next().unwrap_or_default().to_owned(),
    }
}

impl fmt::Display for AssetUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
            Some(url) => f.write_str(&shown(url)),
            None => f.write_str(self.name.split('?').next().unwrap_or_default()),
        }
    }
}

impl fmt::Debug for AssetUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AssetUri({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> AssetUri {
        AssetUri::parse("uris[0]", text).unwrap()
    }

    #[test]
    fn names_are_normal_and_let_nobody_in() {
        let uri = parse("HTTPS://me:p%40ss@Example.COM:443/a/../b?sig=1#part");
        assert_eq!(uri.name(), "https://example.com/b?sig=1");
        assert_eq!(uri.to_string(), "https://example.com/b");
        assert_eq!(format!("{uri:?}"), "AssetUri(https://example.com/b)");
        let login = uri.login().unwrap();
        assert_eq!(login.to_str().unwrap(), "Basic bWU6cEBzcw==");
        assert!(login.is_sensitive());
    }

    #[test]
    fn what_is_no_web_address_is_a_name_all_the_same() {
        for text in ["urn:fdc:buildstream.build:2020:artifact:a/b/c", "oci://host/image", "x:"] {
            let uri = parse(text);
            assert_eq!((uri.name(), uri.url()), (text, None));
        }
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        let long = format!("http://host/{}", "a".repeat(MAX_URI_BYTES));
        for text in
            ["", "no scheme", "/a/b", "1x:a", "http://", "http://a b/", "http://a:99999/", &long]
        {
            let refused = AssetUri::parse("uris[3]", text);
            assert_eq!(refused.unwrap_err().field, "uris[3]", "{text}");
        }
    }
}
