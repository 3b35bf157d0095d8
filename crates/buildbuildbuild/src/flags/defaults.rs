//! What the machine gives for flags that are not given.
//!
//! Promises: reads, never writes, but for [`remember_cache_size`].

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bbb_sockaddr::Interfaces;

/// Share of the machine's memory that `--memory` is without being given.
const MEMORY_SHARE: u64 = 8;

/// File in the cache folder that keeps what half of the free space was at first start.
const CACHE_SIZE_FILE: &str = "default_cache_size";

/// Name of our folder under the user's cache folder.
const FOLDER: &str = "buildbuildbuild";

/// What flags are resolved with: facts about this machine and this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its addresses.
    pub interfaces: Interfaces,
    /// Its name.
    pub host_name: String,
    /// Letters that no other node has, for a name.
    pub unique: String,
    /// Memory in bytes that this process may use.
    pub memory_bytes: u64,
    /// Processors that this process may use.
    pub cores: usize,
    /// Our folder under the user's cache folder, none where there is no home.
    pub cache_dir: Option<PathBuf>,
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// When the system does not say which interfaces it has.
    pub fn of_host() -> Result<Self, bbb_sockaddr::HostError> {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        Ok(Self {
            interfaces: Interfaces::of_host()?,
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            unique: unique[..6].to_owned(),
            memory_bytes: memory_bytes(Path::new("/")),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cache_dir: cache_dir(variable("XDG_CACHE_HOME"), variable("HOME")),
        })
    }

    /// An eighth of the machine.
    pub(crate) fn default_memory_bytes(&self) -> u64 {
        self.memory_bytes / MEMORY_SHARE
    }

    /// Made from the host name, unique.
    pub(crate) fn node_name(&self) -> String {
        let host = self.host_name.split('.').next().unwrap_or_default();
        let plain: String =
            host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let host = if plain.is_empty() { "node" } else { &plain };
        format!("{host}-{}", self.unique)
    }

    /// Its private address, or else loopback: what a client can use if all are listened on.
    pub(crate) fn client_host(&self) -> IpAddr {
        let private = bbb_sockaddr::evaluate("{{ GetPrivateIP }}", &self.interfaces);
        let address = private.ok().and_then(|address| address.parse().ok());
        address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    }
}

/// By the XDG base directory specification: a relative path there is ignored.
fn cache_dir(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let caches = xdg.filter(absolute).or_else(|| Some(home.filter(absolute)?.join(".cache")));
    caches.map(|caches| caches.join(FOLDER))
}

/// Half of what is free on the file system of `cache_dir`, as it was at first start: later ones find
/// it in the folder. The folder need not be there yet.
///
/// # Errors
/// When the file system cannot be asked.
pub(crate) fn cache_size_bytes(cache_dir: &Path) -> io::Result<u64> {
    let remembered = fs::read_to_string(cache_dir.join(CACHE_SIZE_FILE)).ok();
    match remembered.and_then(|text| text.trim().parse().ok()) {
        Some(bytes) => Ok(bytes),
        None => Ok(free_bytes(cache_dir)? / 2),
    }
}

/// Keeps the default of `--cache_size` for later starts. The folder must be there, and be known to be
/// ours.
///
/// # Errors
/// When the file cannot be written.
pub fn remember_cache_size(cache_dir: &Path, bytes: u64) -> io::Result<()> {
    let path = cache_dir.join(CACHE_SIZE_FILE);
    if path.exists() { Ok(()) } else { fs::write(path, format!("{bytes}\n")) }
}

/// What is free for us on the file system of a path, which need not be there yet.
///
/// # Errors
/// When no parent of it can be asked.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = std::path::absolute(path)?;
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The machine's memory, or the limit of a control group that this process is in, below `root`.
fn memory_bytes(root: &Path) -> u64 {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let total = read(root.join("proc/meminfo")).lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let limits = read(root.join("proc/self/cgroup"))
        .lines()
        .flat_map(memory_limit_files)
        .collect::<Vec<_>>();
    // No limit is "max", or a number close to 2^63.
    let limits = limits.iter().filter_map(|file| read(root.join(file)).trim().parse::<u64>().ok());
    // A system that does not say is taken for a small one.
    let total = total.unwrap_or(1 << 30);
    limits.min().map_or(total, |limit| limit.min(total))
}

/// The files that may hold a limit for the group of one line of /proc/self/cgroup and its parents.
/// In a container the group's own path is not to be seen, but its files are at the root.
fn memory_limit_files(line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) =
        (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|name| name == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return Vec::new();
    };
    let plain = Path::new(group).components().all(|part| {
        matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_))
    });
    let group = if plain { group.trim_start_matches('/') } else { "" };
    Path::new(group).ancestors().map(|group| Path::new(mount).join(group).join(file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn memory_is_the_least_of_machine_and_control_groups() {
        let total = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:       8388608 kB\n");
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        let v1 = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n");
        let gib = 1 << 30;
        let table: [(&[(&str, &str)], u64); 7] = [
            (&[total], 8 * gib),
            (&[total, v2, ("sys/fs/cgroup/a/b/memory.max", "max\n")], 8 * gib),
            (&[total, v2, ("sys/fs/cgroup/a/b/memory.max", "1073741824\n")], gib),
            (&[total, v2, ("sys/fs/cgroup/a/memory.max", "2147483648\n")], 2 * gib),
            (&[total, v1, ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2147483648")], 2 * gib),
            (
                &[total, v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")],
                8 * gib,
            ),
            (&[], gib),
        ];
        for (files, expected) in table {
            assert_eq!(memory_bytes(tree(files).path()), expected, "{files:?}");
        }
    }

    #[test]
    fn the_cache_folder_is_the_users() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(cache_dir(path("/x"), path("/home/a")), path("/x/buildbuildbuild"));
        assert_eq!(cache_dir(path("x"), path("/home/a")), path("/home/a/.cache/buildbuildbuild"));
        assert_eq!(cache_dir(None, path("/home/a")), path("/home/a/.cache/buildbuildbuild"));
        assert_eq!(cache_dir(None, None), None);
    }

    #[test]
    fn the_cache_size_is_that_of_the_first_start() {
        let root = tempfile::tempdir().unwrap();
        let later = root.path().join("not/there/yet");
        let half = cache_size_bytes(&later).unwrap();
        assert!(half > 0);
        remember_cache_size(root.path(), 12_345).unwrap();
        remember_cache_size(root.path(), 99).unwrap();
        assert_eq!(cache_size_bytes(root.path()).unwrap(), 12_345);
    }

    #[test]
    fn node_names_are_made_from_the_host_name() {
        let machine = |host: &str| Machine {
            host_name: host.to_owned(),
            unique: "0f3a".to_owned(),
            ..Machine::default()
        };
        assert_eq!(machine("Builder-1.example.org").node_name(), "Builder-1-0f3a");
        assert_eq!(machine("").node_name(), "node-0f3a");
        assert_ne!(
            Machine::of_host().unwrap().node_name(),
            Machine::of_host().unwrap().node_name()
        );
    }
}
