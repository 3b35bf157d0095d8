//! The settings of a node: plain, valid data.
//!
//! [`Settings::resolve`] parses every flag, and looks for flags that
//! contradict each other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::bucket::{self, BucketFlags};
use super::cluster::{self, ClusterFlags};
use super::defaults::{self, Machine};
use super::fetch::FetchFlags;
use super::folders;
use super::hosts::{PRIVATE_IP, host_of};
use super::raw::Flags;
use super::refusal::Refusal;
use super::tls::{self, TlsFlags};
use super::values::{
    parse_choice, parse_count, parse_flag, parse_header, parse_log_filter, parse_name, parse_port,
    parse_size, parse_timeout, platform,
};

/// Everything that a node is told at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where clients are served; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The host that clients can use: `listen`, or an address of this machine where all are
    /// listened on.
    pub client_host: IpAddr,
    /// What every client request must carry.
    pub required_header: Option<RequiredHeader>,
    /// Name of this node, made of letters, digits, `-`, `_` and `.`.
    pub node_name: String,
    /// Folder of the local store; absolute, and maybe not there yet.
    pub cache_dir: PathBuf,
    /// Limit of the local store in bytes, temporary files and staged trees included.
    pub cache_size_bytes: u64,
    /// Limit of memory for blobs and buffers in bytes.
    pub memory_bytes: u64,
    /// Concurrent actions, 0 for none.
    pub worker_slots: usize,
    /// Parallel transfers per action and per bulk operation; at least 1.
    pub download_concurrency: usize,
    /// What workers offer: names and values, sorted, none twice.
    pub platform: Vec<(String, String)>,
    /// How actions are shut in.
    pub sandbox: SandboxChoice,
    /// Whether actions see the network without asking.
    pub sandbox_network: bool,
    /// Folders of the host that actions see, read-only, besides the system's; absolute.
    pub sandbox_folders: Vec<PathBuf>,
    /// Timeout of actions that give none, and the longest; more than zero.
    pub action_timeout: Duration,
    /// How long running actions are waited for at the end.
    pub drain_timeout: Duration,
    /// Whether clients may write action results.
    pub client_results: bool,
    /// What the Remote Asset API may fetch from.
    pub fetch: FetchFlags,
    /// Where blobs and results are kept for good; none keeps them in the local store alone.
    pub bucket: Option<BucketFlags>,
    /// How this node is part of a cluster; none where it is not.
    pub cluster: Option<ClusterFlags>,
    /// TLS for clients; none serves them in plain text.
    pub tls: Option<TlsFlags>,
    /// Which exec roots are kept.
    pub keep_exec_root: KeepExecRoot,
    /// Directives for the filter of logs: `info`, or `warn,bbb_storage=debug`.
    pub log_filter: String,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in bytes that this process may use.
    pub machine_memory_bytes: u64,
    notes: Vec<String>,
}

/// A header that every client request must carry.
#[derive(Clone, PartialEq, Eq)]
pub struct RequiredHeader {
    /// In lower case.
    pub name: String,
    /// Visible ASCII; a secret.
    pub value: String,
}

/// Does not show the secret.
impl std::fmt::Debug for RequiredHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=...", self.name)
    }
}

/// `--sandbox`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxChoice {
    /// The best there is.
    Auto,
    /// Namespaces, or refuse to run.
    Namespaces,
    /// No sandbox.
    None,
}

/// `--no_cleanup_execroot`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepExecRoot {
    /// Every exec root is removed.
    Never,
    /// Those of failed actions stay.
    Failed,
    /// All stay.
    All,
}

/// `--log_format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

const MAX_WORKER_SLOTS: usize = 4_096;
const MAX_CONCURRENCY: usize = 1_000;
const MIN_CACHE_SIZE: u64 = 1 << 20;
const MIN_MEMORY: u64 = 16 << 20;

impl Settings {
    /// The settings that these flags give on this machine.
    ///
    /// # Errors
    /// When a value is not one of its flag's, or flags contradict each other.
    pub fn resolve(flags: &Flags, machine: &Machine) -> Result<Self, Refusal> {
        let mut notes = Vec::new();
        let host = listen_host(flags.listen.as_deref(), machine, &mut notes)?;
        let port = parse_port("port", flags.port.as_deref().unwrap_or("1234"), 0)?;
        let fetch = FetchFlags::parse(flags)?;
        let sandbox =
            parse_choice("sandbox", flags.sandbox.as_deref(), &SANDBOXES, SandboxChoice::Auto)?;
        let sandbox_network =
            parse_flag("sandbox_network", flags.sandbox_network.as_deref(), false)?;
        let cache_dir = cache_dir(flags, machine)?;
        let sandbox_folders = folders::parse(&flags.sandbox_folder, &cache_dir)?;
        let settings = Self {
            listen: SocketAddr::new(host, port),
            client_host: if host.is_unspecified() { machine.client_host() } else { host },
            required_header: flags.required_header.as_deref().map(parse_header).transpose()?,
            node_name: node_name(flags, machine)?,
            cache_size_bytes: cache_size(flags, &cache_dir)?,
            cache_dir,
            memory_bytes: memory(flags, machine)?,
            worker_slots: worker_slots(flags)?,
            download_concurrency: download_concurrency(flags)?,
            platform: platform(&flags.platform)?,
            sandbox,
            sandbox_network,
            sandbox_folders,
            action_timeout: action_timeout(flags)?,
            drain_timeout: drain_timeout(flags)?,
            client_results: parse_flag("client_results", flags.client_results.as_deref(), true)?,
            fetch,
            bucket: bucket::resolve(flags)?,
            cluster: cluster::resolve(
                flags,
                machine,
                flags.listen.as_ref().map(|_| host),
                &mut notes,
            )?,
            tls: tls::resolve(flags)?,
            keep_exec_root: parse_choice(
                "no_cleanup_execroot",
                flags.no_cleanup_execroot.as_deref(),
                &KEEPS,
                KeepExecRoot::Never,
            )?,
            log_filter: parse_log_filter(flags.loglevel.as_deref().unwrap_or("info"))?,
            log_format: parse_choice(
                "log_format",
                flags.log_format.as_deref(),
                &FORMATS,
                LogFormat::Text,
            )?,
            cores: machine.cores,
            machine_memory_bytes: machine.memory_bytes,
            notes,
        };
        check_contradictions(flags, &settings)?;
        Ok(settings)
    }

    /// What was decided for want of something better; a line each, to be logged at start.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

const HOUR: Duration = Duration::from_secs(3_600);
const SANDBOXES: [(&str, SandboxChoice); 3] = [
    ("auto", SandboxChoice::Auto),
    ("namespaces", SandboxChoice::Namespaces),
    ("none", SandboxChoice::None),
];
const KEEPS: [(&str, KeepExecRoot); 2] =
    [("fail", KeepExecRoot::Failed), ("all", KeepExecRoot::All)];
const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

fn listen_host(
    given: Option<&str>,
    machine: &Machine,
    notes: &mut Vec<String>,
) -> Result<IpAddr, Refusal> {
    let template = given.unwrap_or(PRIVATE_IP);
    Ok(host_of("listen", template, machine)?.unwrap_or_else(|| {
        notes.push(format!(
            "--listen={template} gives no address on this machine: listening on loopback, which \
             other machines do not reach"
        ));
        Ipv4Addr::LOCALHOST.into()
    }))
}

/// Checks the flags of assets.
fn check_contradictions(flags: &Flags, settings: &Settings) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(Refusal::Contradiction(what.to_owned()));
    if settings.sandbox == SandboxChoice::None
        && flags.sandbox_network.is_some()
        && !settings.sandbox_network
    {
        return refuse(
            "--sandbox=none cannot keep actions from the network: use --sandbox=namespaces or leave out \
             --sandbox_network=false",
        );
    }
    Ok(())
}

fn cache_dir(flags: &Flags, machine: &Machine) -> Result<PathBuf, Refusal> {
    let given = flags.cache_dir.as_ref().map(PathBuf::from);
    let refused = |value: &str, right: &str| Refusal::value("cache_dir", value, right);
    let path = given.or_else(|| machine.cache_dir.clone()).ok_or_else(|| {
        refused(
            "",
            "this user has no home folder, so give a folder, like /var/cache/buildbuildbuild",
        )
    })?;
    let shown = path.to_string_lossy().into_owned();
    if path.is_file() {
        return Err(refused(&shown, "is a file, use a folder"));
    }
    std::path::absolute(&path).map_err(|_| refused(&shown, "use a folder"))
}

fn cache_size(flags: &Flags, cache_dir: &std::path::Path) -> Result<u64, Refusal> {
    let unasked = |error: std::io::Error| {
        let dir = cache_dir.display();
        Refusal::Other(format!(
            "cannot tell what is free for --cache_dir={dir}: {error}; give --cache_size"
        ))
    };
    let Some(text) = flags.cache_size.as_deref() else {
        return defaults::cache_size_bytes(cache_dir).map_err(unasked);
    };
    let free =
        if text.contains('%') { defaults::free_bytes(cache_dir).map_err(unasked)? } else { 0 };
    parse_size("cache_size", text, free, MIN_CACHE_SIZE)
}

fn node_name(flags: &Flags, machine: &Machine) -> Result<String, Refusal> {
    match &flags.node_name {
        Some(name) => parse_name("node_name", name),
        None => Ok(machine.node_name()),
    }
}

fn memory(flags: &Flags, machine: &Machine) -> Result<u64, Refusal> {
    match flags.memory.as_deref() {
        Some(text) => parse_size("memory", text, machine.memory_bytes, MIN_MEMORY),
        None => Ok(machine.default_memory_bytes().max(MIN_MEMORY)),
    }
}

fn worker_slots(flags: &Flags) -> Result<usize, Refusal> {
    parse_count("worker_slots", flags.worker_slots.as_deref(), 0, 0..=MAX_WORKER_SLOTS)
}

fn download_concurrency(flags: &Flags) -> Result<usize, Refusal> {
    let given = flags.download_concurrency.as_deref();
    parse_count("download_concurrency", given, 10, 1..=MAX_CONCURRENCY)
}

fn action_timeout(flags: &Flags) -> Result<Duration, Refusal> {
    parse_timeout("action_timeout", flags.action_timeout.as_deref(), HOUR, false)
}

fn drain_timeout(flags: &Flags) -> Result<Duration, Refusal> {
    parse_timeout("drain_timeout", flags.drain_timeout.as_deref(), HOUR / 12, true)
}
