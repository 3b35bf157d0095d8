//! Proxies that the environment names.

use std::{collections::BTreeSet, io};

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use url::{Position, Url};

use super::HopError;
use crate::uri::login;

/// Which proxy is used for what.
#[derive(Default)]
pub(super) struct Proxies {
    http: Option<Named>,
    https: Option<Named>,
    /// Takes whatever `NO_PROXY` does not list.
    others: Option<Matcher>,
}

/// What a variable names, or why that cannot be used: an operator who wants a proxy does not want us to go without.
type Named = Result<Proxy, String>;

/// A proxy.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `Proxy-Authorization`.
    pub(crate) login: Option<HeaderValue>,
}

impl Proxies {
    /// The proxies that variables name, in capital letters or in small ones. One that is empty is as one that is not there.
    pub(super) fn of_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let find = |name: &str| {
            let names = [name.to_owned(), name.to_ascii_lowercase()];
            let mut found = names.into_iter().filter_map(|name| Some((variable(&name)?, name)));
            found.find(|(value, _)| !value.trim().is_empty())
        };
        let named = |name: &str| {
            let (value, name) = find(name).or_else(|| find("ALL_PROXY"))?;
            Some(Proxy::parse(value.trim()).map_err(|what| format!("{name} {what}")))
        };
        let except = find("NO_PROXY").map(|(value, _)| value).unwrap_or_default();
        let others = Matcher::builder().all("http://any").no(except).build();
        Self { http: named("HTTP_PROXY"), https: named("HTTPS_PROXY"), others: Some(others) }
    }

    /// Why some that are named cannot be used, each once.
    pub(super) fn unusable(&self) -> BTreeSet<&str> {
        let named = [&self.http, &self.https].into_iter().flatten();
        named.filter_map(|named| named.as_ref().err().map(String::as_str)).collect()
    }

    /// The proxy through which a URL is asked for, if there is one.
    pub(super) fn of(&self, url: &Url) -> Option<Result<Proxy, HopError>> {
        let named = match url.scheme() {
            "https" => self.https.as_ref()?,
            _ => self.http.as_ref()?,
        };
        let unusable = |what: &str| {
            let error = io::Error::new(io::ErrorKind::Unsupported, what);
            HopError::unusable("cannot use the proxy that the environment names", error)
        };
        let Ok(target) = url[..Position::BeforePath].parse::<Uri>() else {
            return Some(Err(unusable("the host of the URL is none that it would know")));
        };
        self.others.as_ref()?.intercept(&target)?;
        Some(named.clone().map_err(|what| unusable(&what)))
    }
}

impl Proxy {
    /// Reads the value of a variable: `http://HOST:PORT`, with user and password, or without the scheme. What is wrong is told
    /// without the value, which may let somebody in.
    fn parse(value: &str) -> Named {
        let url = match value.contains("://") {
            true => Url::parse(value),
            false => Url::parse(&format!("http://{value}")),
        };
        let url = url.map_err(|error| format!("is no URL: {error}"))?;
        if url.scheme() != "http" {
            return Err(format!("is of {}, but only http:// proxies are spoken to", url.scheme()));
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        Ok(Self { host, port, login: login(&url) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::of_variables(|name| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    /// The proxy for a URL, in short.
    fn of(variables: &[(&str, &str)], url: &str) -> String {
        match proxies(variables).of(&url.parse().unwrap()) {
            None => "none".to_owned(),
            Some(Ok(proxy)) => format!("{}:{}", proxy.host, proxy.port),
            Some(Err(error)) => crate::failure::story(&error),
        }
    }

    #[test]
    fn each_scheme_has_its_own_and_all_another() {
        let three = [("HTTP_PROXY", "http://a:1"), ("https_proxy", "b"), ("ALL_PROXY", "c:3")];
        assert_eq!(of(&three, "http://x/"), "a:1");
        assert_eq!(of(&three, "https://x/"), "b:80");
        assert_eq!(of(&three[1..], "http://x/"), "c:3");
        assert_eq!(of(&three[..1], "https://x/"), "none");
        assert_eq!(
            of(&[("HTTP_PROXY", ""), ("all_proxy", "http://[::1]:3/")], "http://x/"),
            "[::1]:3"
        );
        assert_eq!(of(&[], "http://x/"), "none");
    }

    #[test]
    fn some_are_asked_without() {
        let except = "corp, .net,10.0.0.0/8,::1, 192.0.2.7";
        let variables = [("all_proxy", "a:1"), ("no_proxy", except)];
        for host in ["corp", "A.CORP", "net", "x.net", "10.1.2.3", "[::1]:99", "192.0.2.7:8080"] {
            assert_eq!(of(&variables, &format!("http://{host}/")), "none", "{host}");
            assert_eq!(of(&variables, &format!("https://{host}/")), "none", "{host}");
        }
        for host in ["notcorp", "corp.org", "11.1.2.3", "[::2]", "192.0.2.8", "localhost"] {
            assert_eq!(of(&variables, &format!("http://{host}/?a=`b`")), "a:1", "{host}");
        }
        assert_eq!(of(&[("ALL_PROXY", "a:1"), ("NO_PROXY", "*")], "http://x/"), "none");
    }

    #[test]
    fn what_cannot_be_used_is_not_gone_without() {
        for (value, told) in [
            ("socks5://me:secret@a:1080", "is of socks5"),
            ("socks5h://a", "is of socks5h"),
            ("https://me:secret@a", "is of https"),
            ("ftp://a", "is of ftp"),
            ("http://me:sec/ret@a:1", "is no URL"),
            ("http://", "is no URL"),
            ("a:99999", "is no URL"),
        ] {
            let story = of(&[("ALL_PROXY", value), ("NO_PROXY", "b")], "https://x/");
            assert!(story.contains(&format!("ALL_PROXY {told}")), "{value}: {story}");
            assert!(!story.contains("sec"), "{story}");
            assert_eq!(of(&[("ALL_PROXY", value), ("NO_PROXY", "x")], "https://x/"), "none");
        }
        let proxies = proxies(&[("HTTP_PROXY", "socks4://a"), ("HTTPS_PROXY", "a")]);
        assert_eq!(proxies.unusable().len(), 1);
        let both = self::proxies(&[("ALL_PROXY", "socks4://a")]);
        assert_eq!(both.unusable().len(), 1, "it is said once");
    }

    #[test]
    fn user_and_password_are_for_the_proxy() {
        let proxies = proxies(&[("HTTP_PROXY", "http://me:p%40ss@a")]);
        let Some(Ok(proxy)) = proxies.of(&"http://x/".parse().unwrap()) else { panic!("none") };
        let login = proxy.login.unwrap();
        assert_eq!(login, "Basic bWU6cEBzcw==");
        assert!(login.is_sensitive());
    }
}
