//! From names to addresses.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Semaphore, task, time};

use super::join::JoinError;

/// How long a name may take to resolve.
const LOOKUP_WAIT: Duration = Duration::from_secs(5);
/// How many look-ups hold a thread at a time. One that nobody waits for any more holds it until the system gives up.
const MAX_LOOKUPS: usize = 8;
/// The longest name, in bytes (RFC 1035).
const MAX_NAME_BYTES: usize = 255;

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl FromStr for HostPort {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let wrong = || JoinError::NotHostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let good = match bare {
            Some(v6) => text.parse::<SocketAddr>().is_ok() && !v6.is_empty(),
            None => {
                !host.is_empty()
                    && host.len() <= MAX_NAME_BYTES
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            }
        };
        if !good {
            return Err(wrong());
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Finds the addresses of a host.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of `target`, of both families.
    ///
    /// # Errors
    /// If the name has none now, or nobody can tell.
    async fn resolve(&self, target: &HostPort) -> io::Result<Vec<SocketAddr>>;
}

/// The operating system's resolver.
#[derive(Clone, Debug)]
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, target: &HostPort) -> io::Result<Vec<SocketAddr>> {
        // With brackets, for the scope of a link-local address: `[fe80::1%3]:7946`.
        if let Ok(address) = target.to_string().parse() {
            return Ok(vec![address]);
        }
        let HostPort { host, port } = target.clone();
        let lookups = Arc::clone(&self.lookups);
        let lookup = async move {
            let permit = lookups.acquire_owned().await.map_err(io::Error::other)?;
            task::spawn_blocking(move || {
                let addresses = (host, port).to_socket_addrs().map(Iterator::collect);
                drop(permit);
                addresses
            })
            .await?
        };
        match time::timeout(LOOKUP_WAIT, lookup).await {
            Ok(addresses) => addresses,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the resolver did not answer within {LOOKUP_WAIT:?}"),
            )),
        }
    }
}

/// The address as it would be written for a socket of its own family.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_addresses() {
        for text in
            ["node-1.example:7946", "10.0.0.1:1", "[fd00::1]:7946", "[fe80::1%3]:7946", "a_b:9"]
        {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":7946",
            "fd00::1:7946",
            "[fd00::1]",
            "[]:1",
        ]
        .into_iter()
        .chain(["a b:1", "[host]:1", "a/b:1", "http://a:1", "[fd00::1:1"])
        {
            let error = text.parse::<HostPort>().unwrap_err();
            assert!(error.to_string().contains("host:port"), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn asks_nobody_for_what_is_an_address() {
        let resolver = SystemResolver { lookups: Arc::new(Semaphore::new(0)) };
        for text in ["10.0.0.1:7946", "[fd00::1]:7946", "[fe80::1%3]:7946"] {
            let addresses = resolver.resolve(&text.parse().unwrap()).await.unwrap();
            assert_eq!(addresses, [text.parse().unwrap()]);
        }
    }

    #[tokio::test]
    async fn asks_the_system_for_names() {
        let addresses =
            SystemResolver::default().resolve(&"localhost:7946".parse().unwrap()).await.unwrap();
        assert!(
            addresses.iter().all(|a| a.ip().is_loopback() && a.port() == 7946),
            "{addresses:?}"
        );
        assert!(!addresses.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_when_all_look_ups_hang() {
        let resolver = SystemResolver { lookups: Arc::new(Semaphore::new(0)) };
        let error = resolver.resolve(&"localhost:7946".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
