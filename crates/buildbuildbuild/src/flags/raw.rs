//! The flags as they are written, and the text of `--help`.
//!
//! Every value is kept as text: what it means is for [`Settings`](super::Settings) to say, with
//! errors of our own wording. A field is none or empty where its flag was not given.

use clap::{Parser, Subcommand};

/// A remote build cluster for Bazel and every other client of the Remote Execution API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Parser)]
#[command(
    name = "buildbuildbuild",
    version,
    about,
    rename_all = "snake_case",
    disable_help_subcommand = true,
    after_help = "\
Flags are written --flag=value or --flag value; one dash is taken like two.
Sizes: 8GiB, 500MB, bytes. Durations: 1h, 5m, 1h30m, 300s.
Hosts are go-sockaddr templates, like '{{ GetPrivateIP }}', or plain addresses; try one with
buildbuildbuild sockaddr '{{ GetPrivateInterfaces | join \"address\" \" \" }}'"
)]
pub struct Flags {
    /// Address for clients: gRPC and pages. Loopback where the template gives nothing [default:
    /// {{ GetPrivateIP }}]
    #[arg(long, value_name = "HOST", help_heading = ORIGINAL)]
    pub listen: Option<String>,
    /// Port for clients [default: 1234]
    #[arg(long, help_heading = ORIGINAL)]
    pub port: Option<String>,
    /// What every client request must carry (bazel --remote_header=) [default: none]
    #[arg(long, value_name = "NAME=VALUE", help_heading = ORIGINAL)]
    pub required_header: Option<String>,
    /// Only nodes of the same name join, by whichever way they met [default: default_cluster]
    #[arg(long, value_name = "NAME", help_heading = ORIGINAL)]
    pub cluster_name: Option<String>,
    /// Name of the node in results, logs and pages [default: made from the host name, unique]
    #[arg(long, value_name = "NAME", help_heading = ORIGINAL)]
    pub node_name: Option<String>,
    /// Where gossip listens [default: {{ GetPrivateIP }}]
    #[arg(long, value_name = "HOST", help_heading = ORIGINAL)]
    pub bind_host: Option<String>,
    /// Port of gossip [default: 7946]
    #[arg(long, value_name = "PORT", help_heading = ORIGINAL)]
    pub bind_port: Option<String>,
    /// Address that other nodes are told [default: {{ GetPrivateIP }}]
    #[arg(long, value_name = "HOST", help_heading = ORIGINAL)]
    pub advertise_host: Option<String>,
    /// Port that other nodes are told [default: the bind port]
    #[arg(long, value_name = "PORT", help_heading = ORIGINAL)]
    pub advertise_port: Option<String>,
    /// Keep and use a member list under this key of the bucket [default: none]
    #[arg(long, value_name = "KEY", help_heading = ORIGINAL)]
    pub autojoin_s3: Option<String>,
    /// Announce and listen on this broadcast or multicast address; false or empty turns it off
    /// [default: {{ GetPrivateInterfaces | attr "broadcast" }}:9876]
    #[arg(long, value_name = "HOST:PORT", help_heading = ORIGINAL)]
    pub autojoin_udp: Option<String>,
    /// Nodes to join at start, and again while alone [default: none]
    #[arg(long, value_name = "HOST:PORT,...", help_heading = ORIGINAL)]
    pub join: Option<String>,
    /// Key of the cluster: seals gossip and gives node-to-node TLS [default: none]
    #[arg(long, value_name = "KEY", help_heading = ORIGINAL)]
    pub secret_key: Option<String>,
    /// File with the key of the cluster, so that it does not stand in the process list [default:
    /// none]
    #[arg(long, value_name = "FILE", help_heading = ORIGINAL)]
    pub secret_key_file: Option<String>,
    /// Bucket that the cluster shares: name, s3://name/prefix or file:///shared/dir [default: none,
    /// an embedded store]
    #[arg(long, help_heading = ORIGINAL)]
    pub bucket: Option<String>,
    /// Region of the bucket [default: us-east-1]
    #[arg(long, help_heading = ORIGINAL)]
    pub region: Option<String>,
    /// Folder for local blobs, staged trees and exec roots [default: under the user's cache folder]
    #[arg(long, value_name = "DIR", help_heading = ORIGINAL)]
    pub cache_dir: Option<String>,
    /// Concurrent actions on this node; 0 runs none [default: 0]
    #[arg(long, value_name = "N", help_heading = ORIGINAL)]
    pub worker_slots: Option<String>,
    /// Parallel transfers per action and per bulk operation, both ways [default: 10]
    #[arg(long, value_name = "N", help_heading = ORIGINAL)]
    pub download_concurrency: Option<String>,
    /// zstd for all blobs in the bucket [default: true]
    #[arg(long, value_name = "BOOL", help_heading = ORIGINAL,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub compress: Option<String>,
    /// Keep exec roots: fail keeps those of failed actions, all keeps all [default: none]
    #[arg(long, value_name = "fail|all", help_heading = ORIGINAL)]
    pub no_cleanup_execroot: Option<String>,
    /// panic, fatal, error, warn, info, debug or trace, and filters target=level [default: info]
    #[arg(long, value_name = "LEVEL,...", help_heading = ORIGINAL)]
    pub loglevel: Option<String>,

    /// S3 endpoint; path style unless --virtual_hosted_style [default: none]
    #[arg(long, value_name = "URL", help_heading = OURS)]
    pub endpoint: Option<String>,
    /// The bucket is part of the endpoint's host name [default: false]
    #[arg(long, value_name = "BOOL", help_heading = OURS,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub virtual_hosted_style: Option<String>,
    /// Limit of cache_dir, temporary files and staged trees included; 50% is of what is free
    /// [default: half of what is free at first start]
    #[arg(long, value_name = "SIZE", help_heading = OURS)]
    pub cache_size: Option<String>,
    /// Limit for blobs in memory and buffers in flight; 25% is of the machine [default: an eighth of
    /// the machine]
    #[arg(long, value_name = "SIZE", help_heading = OURS)]
    pub memory: Option<String>,
    /// Blobs, results and logs untouched for this long leave the bucket [default: none, keep]
    #[arg(long, value_name = "DURATION", help_heading = OURS)]
    pub expire_after: Option<String>,
    /// Acknowledge uploads once they are on the local disk, and take them to the bucket behind [default:
    /// false]
    #[arg(long, value_name = "BOOL", help_heading = OURS,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub write_back: Option<String>,
    /// What this worker offers, repeatable; an empty value takes a default away [default: OSFamily
    /// and Arch of the host]
    #[arg(long, value_name = "NAME=VALUE", help_heading = OURS)]
    pub platform: Vec<String>,
    /// namespaces (refuse to run without), none, or auto (the best there is) [default: auto]
    #[arg(long, value_name = "KIND", help_heading = OURS)]
    pub sandbox: Option<String>,
    /// Actions see the network; one asks for it with the platform property network=on [default:
    /// false]
    #[arg(long, value_name = "BOOL", help_heading = OURS,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sandbox_network: Option<String>,
    /// Folder of the host that actions see read-only, besides the system's, repeatable [default: none]
    #[arg(long, value_name = "DIR", help_heading = OURS)]
    pub sandbox_folder: Vec<String>,
    /// Timeout of actions that give none, and the longest that may be asked for [default: 1h]
    #[arg(long, value_name = "DURATION", help_heading = OURS)]
    pub action_timeout: Option<String>,
    /// On SIGTERM: take no more work, finish what runs within this time, leave [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = OURS)]
    pub drain_timeout: Option<String>,
    /// Certificate for clients, PEM [default: none]
    #[arg(long, value_name = "FILE", help_heading = OURS)]
    pub tls_cert: Option<String>,
    /// Its key, PEM [default: none]
    #[arg(long, value_name = "FILE", help_heading = OURS)]
    pub tls_key: Option<String>,
    /// Authority whose certificates clients must have, PEM [default: none]
    #[arg(long, value_name = "FILE", help_heading = OURS)]
    pub tls_client_ca: Option<String>,
    /// Clients may write action results; false trusts workers alone [default: true]
    #[arg(long, value_name = "BOOL", help_heading = OURS,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub client_results: Option<String>,
    /// Host, host:port or CIDR that may be fetched from although it is not public, repeatable
    /// [default: none]
    #[arg(long, value_name = "HOST", help_heading = OURS)]
    pub fetch_allow: Vec<String>,
    /// All that may be fetched from, repeatable [default: every public host]
    #[arg(long, value_name = "HOST", help_heading = OURS)]
    pub fetch_only: Vec<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = OURS)]
    pub log_format: Option<String>,

    /// What to do instead of running a node.
    #[command(subcommand)]
    pub tool: Option<Tool>,
}

const ORIGINAL: &str = "Flags of the original";
const OURS: &str = "Flags of our own";

/// Subcommands: for people, not for running a node.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
#[command(rename_all = "snake_case")]
pub enum Tool {
    /// Print what a go-sockaddr template gives on this machine
    Sockaddr {
        /// The template, like '{{ GetPrivateIP }}'
        #[arg(allow_hyphen_values = true)]
        template: String,
    },
    /// Print a log while it grows, until its end
    Log {
        /// A node, grpc://HOST:PORT
        server: String,
        /// The log's name, as in an operation's metadata
        name: String,
    },
    /// Load any server of the Remote Execution API and measure it
    Bench(Box<bbb_bench::Args>),
}
