//! The options of the benchmark.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use bbb_digest::Function;

use crate::digest::parse_function;

/// Load a Remote Execution API server, any server, and measure it: operations a second, latencies, the CPU time that
/// the server spent on each operation, errors.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// The server: grpc://HOST:PORT
    #[arg(required_unless_present_any = ["list", "serve_ceiling"])]
    pub(crate) server: Option<Address>,
    /// Process of the server on this machine, whose CPU time and memory are read from /proc
    #[arg(long = "server_pid", value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// A second server: both are loaded in turn, run by run, and compared
    #[arg(long, value_name = "grpc://HOST:PORT")]
    pub(crate) vs: Option<Address>,
    /// Process of the second server
    #[arg(long = "vs_pid", value_name = "PID", requires = "vs")]
    pub(crate) vs_pid: Option<u32>,
    /// Another node of the server's cluster: what is written at the server is read there (workloads through-...)
    #[arg(long, value_name = "grpc://HOST:PORT")]
    pub(crate) through: Option<Address>,
    /// Process of that node
    #[arg(long = "through_pid", value_name = "PID", requires = "through")]
    pub(crate) through_pid: Option<u32>,
    /// The other node for what is written at the second server
    #[arg(long = "vs_through", value_name = "grpc://HOST:PORT", requires = "vs")]
    pub(crate) vs_through: Option<Address>,
    /// Process of that node
    #[arg(long = "vs_through_pid", value_name = "PID", requires = "vs_through")]
    pub(crate) vs_through_pid: Option<u32>,
    /// Processes that have a part in the work, too, like further nodes or the bucket's server: their CPU time is shown
    #[arg(long = "also_pid", value_delimiter = ',', value_name = "PID,...")]
    pub(crate) also_pid: Vec<u32>,
    /// Also measure a bare gRPC server of our own, started for it: what the stack could do at best here
    #[arg(long)]
    pub(crate) ceiling: bool,
    /// Workloads to run, by name or beginning of a name (default: all that the server offers)
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub(crate) only: Vec<String>,
    /// Print the workloads and end
    #[arg(long)]
    pub(crate) list: bool,
    /// Runs of each workload, of which medians are printed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// Calls in flight at once: each workload is run with each of these (default: as listed)
    #[arg(long, value_delimiter = ',', value_name = "N,...",
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) concurrency: Vec<u16>,
    /// Seconds that a run lasts at most
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) duration: Duration,
    /// Calls that a run makes at most (default: as listed)
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Seconds after which a call counts as failed
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Bytes that a run writes at most (default counts follow from it)
    #[arg(long = "write_bytes", default_value = "512MiB", value_name = "SIZE")]
    pub(crate) write_bytes: Size,
    /// Blob sizes of the ByteStream workloads
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1KiB,1MiB,256MiB",
        value_name = "SIZE,..."
    )]
    pub(crate) sizes: Vec<Size>,
    /// Data per message of a ByteStream write
    #[arg(long = "message_size", default_value = "1MiB", value_name = "SIZE")]
    pub(crate) message_size: Size,
    /// Largest HTTP/2 frame that the server may send: 16 KiB, which most clients keep, to 16 MiB
    #[arg(long = "frame_size", default_value = "16KiB", value_name = "SIZE")]
    pub(crate) frame_size: Size,
    /// HTTP/2 connections to each server
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) connections: u16,
    /// Instance name
    #[arg(long, default_value = "")]
    pub(crate) instance: String,
    /// Digest function
    #[arg(long = "digest_function", value_name = "NAME", value_parser = parse_function, default_value = "sha256")]
    pub(crate) digest_function: Function,
    /// Header that every call carries
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) header: Vec<Header>,
    /// Platform property that every action asks for
    #[arg(long, value_name = "NAME=VALUE", value_parser = property)]
    pub(crate) platform: Vec<(String, String)>,
    /// Also write all figures, those of each run too, to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Be the server of --ceiling
    #[arg(long = "serve_ceiling", hide = true)]
    pub(crate) serve_ceiling: bool,
}

impl Args {
    /// The headers of every call.
    pub(crate) fn headers(&self) -> HeaderMap {
        self.header.iter().map(|Header(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Where a server listens: `grpc://HOST:PORT`; without a scheme it means the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(pub(crate) String);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let authority = match text.split_once("://") {
            None => text,
            Some(("grpc" | "http", rest)) => rest.trim_end_matches('/'),
            Some((scheme, _)) => {
                return Err(format!("{scheme}:// is not spoken, use grpc://HOST:PORT"));
            }
        };
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        match port {
            Some(_) if authority.parse::<http::uri::Authority>().is_ok() => {
                Ok(Self(authority.to_owned()))
            }
            _ => Err("use grpc://HOST:PORT".to_owned()),
        }
    }
}

/// A size in bytes: a number with `B`, `KiB`, `MiB`, `GiB` or nothing behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub(crate) usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit {
            "" | "B" => 0,
            "KiB" | "K" => 10,
            "MiB" | "M" => 20,
            "GiB" | "G" => 30,
            _ => return Err(format!("unit {unit:?}: use KiB, MiB or GiB")),
        };
        let number: usize = number.parse().map_err(|_| "not a number of bytes".to_owned())?;
        match number.checked_mul(1 << shift) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err("must be over 0 and fit this machine".to_owned()),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A header of every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header(HeaderName, HeaderValue);

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = property(text)?;
        let name = name.parse().map_err(|_| format!("{name:?} is not the name of a header"))?;
        let mut value: HeaderValue =
            value.parse().map_err(|_| "the value cannot stand in a header".to_owned())?;
        value.set_sensitive(true);
        Ok(Self(name, value))
    }
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("use NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be over 0 seconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let good = |text: &str| text.parse::<Address>().unwrap().0;
        assert_eq!(good("grpc://127.0.0.1:1234"), "127.0.0.1:1234");
        assert_eq!(good("grpc://[::1]:1/"), "[::1]:1");
        assert_eq!(good("localhost:80"), "localhost:80");
        for bad in ["grpcs://a:1", "grpc://a", "a", "", "grpc://a:x", "grpc://a b:1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("1KiB", 1024, "1KiB"),
            ("256MiB", 256 << 20, "256MiB"),
            ("1000", 1000, "1000B"),
            ("2048K", 2 << 20, "2MiB"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown));
        }
        for bad in ["", "MiB", "1kb", "0", "-1", "99999999999999999999", "99999999999999999GiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_and_durations() {
        assert!("x-token=a=b".parse::<Header>().is_ok());
        assert!("x token=a".parse::<Header>().is_err());
        assert!("x".parse::<Header>().is_err());
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err() && seconds("-1").is_err() && seconds("nan").is_err());
    }
}
