//! Proxies that the environment names.

use std::io;

use http::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::HopError;

/// Which proxy is used for what.
pub(super) struct Proxies(Option<Matcher>);

/// A proxy.
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `Proxy-Authorization`.
    pub(crate) login: Option<HeaderValue>,
}

impl Proxies {
    pub(super) fn from_env() -> Self {
        Self(Some(Matcher::from_env()))
    }

    pub(super) fn all(proxy: &str) -> Self {
        Self(Some(Matcher::builder().all(proxy).build()))
    }

    pub(super) fn none() -> Self {
        Self(None)
    }

    /// The proxy through which a URL is asked for, if there is one. One that is not spoken to in plain HTTP cannot be used.
    pub(super) fn of(&self, url: &Url) -> Option<Result<Proxy, HopError>> {
        let target: http::Uri = url[..url::Position::AfterPath].parse().ok()?;
        let found = self.0.as_ref()?.intercept(&target)?;
        let uri = found.uri();
        let unusable = |what: &str| {
            let error = io::Error::new(io::ErrorKind::Unsupported, what.to_owned());
            HopError::unreachable("cannot use the proxy that the environment names", error)
        };
        if uri.scheme_str() != Some("http") {
            return Some(Err(unusable("only http:// proxies are spoken to")));
        }
        let Some(host) = uri.host() else { return Some(Err(unusable("it has no host"))) };
        let login = found.basic_auth().cloned();
        Some(Ok(Proxy { host: host.to_owned(), port: uri.port_u16().unwrap_or(80), login }))
    }
}
