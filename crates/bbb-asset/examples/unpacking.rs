//! What it costs to fetch directories: archives of few, many and large files, from a server on loopback into a store, beside
//! `tar -xf` and `unzip` into a folder.
//!
//! `cargo run --release -p bbb-asset --example unpacking [folder] [case] [archive]` works in a new folder below `folder`, where 25 GiB have to
//! be free for the largest case. Cases are 10, 1000, 100000 and large; archives
//! are a.tar, a.tar.gz, a.tar.zst and a.zip. It needs tar, gzip, zstd, zip and unzip.
//!
//! Each fetch runs in a process of its own, so that its peak of memory is its own, and the server in another one.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use bbb_asset::{AssetUri, Assets, Fetch, Kind, Origins, Qualifiers, Reach};
use bbb_digest::{Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_storage::{Disk, DiskSettings, Instances, Stores, TreeCache, Trees};

/// Names, numbers of files, and their sizes in bytes.
const CASES: [(&str, u64, u64); 4] = [
    ("10", 10, 1 << 20),
    ("1000", 1000, 64 << 10),
    ("100000", 100_000, 4 << 10),
    ("large", 1, 4 << 30),
];

/// How each archive is made of the folder `files`, and unpacked into the folder it is in.
const FORMATS: [(&str, &str, &str); 4] = [
    ("a.tar", "tar -cf a.tar files", "tar -xf ../a.tar"),
    ("a.tar.gz", "tar -cf - files | gzip -1 >a.tar.gz", "tar -xf ../a.tar.gz"),
    ("a.tar.zst", "tar -cf - files | zstd -q -o a.tar.zst", "tar -xf ../a.tar.zst"),
    ("a.zip", "zip -q -r -1 a.zip files", "unzip -q ../a.zip"),
];

/// The largest asset, and store, in bytes.
const LIMIT_BYTES: u64 = 16 << 30;
const STORE_BYTES: u64 = 64 << 30;

/// Clock ticks of Linux's `/proc` in a second.
const TICKS: f64 = 100.0;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve", folder] => serve(Path::new(folder)),
        ["--fetch", folder, kind, url] => fetch(Path::new(folder), kind, url),
        [] => measure(&std::env::temp_dir(), None, None),
        [below] => measure(Path::new(below), None, None),
        [below, case] => measure(Path::new(below), Some(case), None),
        [below, case, archive] => measure(Path::new(below), Some(case), Some(archive)),
        _ => bail!("use: unpacking [folder] [case] [archive]"),
    }
}

/// All cases and archives, or one.
fn measure(below: &Path, case: Option<&str>, archive: Option<&str>) -> anyhow::Result<()> {
    let folder = tempfile::TempDir::new_in(below)?;
    let folder = folder.path();
    println!(
        "| files | archive | MiB | unpacked by tar or unzip: s, CPU s | downloaded: s, CPU s | fetched as a directory: s, CPU s, peak MiB |"
    );
    println!("|---|---|---|---|---|---|");
    let is_wanted = |only: Option<&str>, name: &str| only.is_none_or(|only| only == name);
    for (_, files, bytes) in CASES.into_iter().filter(|(name, ..)| is_wanted(case, name)) {
        write_files(&folder.join("files"), files, bytes)?;
        for (name, pack, unpack) in
            FORMATS.into_iter().filter(|(name, ..)| is_wanted(archive, name))
        {
            run(folder, pack)?;
            let size = fs::metadata(folder.join(name))?.len() >> 20;
            fs::create_dir(folder.join("out"))?;
            let beside = timed_children(|| run(&folder.join("out"), unpack))?;
            fs::remove_dir_all(folder.join("out"))?;
            let (server, url) = served(folder)?;
            let blob = in_a_process(folder, "blob", &format!("{url}/{name}"))?;
            let directory = in_a_process(folder, "directory", &format!("{url}/{name}"))?;
            drop(server);
            fs::remove_file(folder.join(name))?;
            println!(
                "| {files} of {} KiB | {name} | {size} | {beside} | {} | {directory} |",
                bytes >> 10,
                blob.rsplit_once(',').map_or("", |(without_peak, _)| without_peak)
            );
        }
        fs::remove_dir_all(folder.join("files"))?;
    }
    Ok(())
}

/// Files of hex digits, each other ones, a hundred in a folder.
fn write_files(folder: &Path, files: u64, bytes: u64) -> anyhow::Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for file in 0..files {
        let below = folder.join(format!("d{}", file / 100));
        fs::create_dir_all(&below)?;
        let mut out =
            BufWriter::with_capacity(1 << 20, File::create(below.join(format!("f{file}")))?);
        for _ in 0..bytes / 32 {
            let mut line = [0; 32];
            for digit in &mut line {
                *digit = b"0123456789abcdef"[(state & 15) as usize];
                state = state.rotate_right(4);
            }
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.write_all(&line)?;
        }
        out.flush()?;
    }
    Ok(())
}

fn run(folder: &Path, script: &str) -> anyhow::Result<()> {
    let status = Command::new("sh").arg("-c").arg(script).current_dir(folder).status()?;
    ensure!(status.success(), "{script}: {status}");
    Ok(())
}

/// Wall and CPU seconds of children that `work` waits for.
fn timed_children(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<String> {
    let (began, before) = (Instant::now(), cpu(Whose::Children)?);
    work()?;
    Ok(format!("{:.2}, {:.2}", began.elapsed().as_secs_f64(), cpu(Whose::Children)? - before))
}

enum Whose {
    Own,
    Children,
}

/// CPU seconds until now (proc_pid_stat(5)).
fn cpu(whose: Whose) -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat is odd")?;
    let skipped = match whose {
        Whose::Own => 11,
        Whose::Children => 13,
    };
    let ticks = fields.split_whitespace().skip(skipped).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()? as f64 / TICKS)
}

/// The most memory that this process had, in MiB.
fn peak_mib() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next()).context("no VmHWM")?;
    Ok(kib.parse::<u64>()? >> 10)
}

/// A child that ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of a folder, and its URL.
fn served(folder: &Path) -> anyhow::Result<(Server, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    let child = command.arg("--serve").arg(folder).stdout(Stdio::piped()).spawn()?;
    let mut server = Server(child);
    let mut url = String::new();
    BufReader::new(server.0.stdout.take().context("no output")?).read_line(&mut url)?;
    Ok((server, url.trim().to_owned()))
}

fn serve(folder: &Path) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("http://{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, folder) = (stream?, folder.to_owned());
        thread::spawn(move || answer(stream, &folder));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, folder: &Path) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let name = first.split(' ').nth(1).and_then(|path| path.rsplit('/').next());
    let mut file = File::open(folder.join(name.unwrap_or_default()))?;
    let length = file.metadata()?.len();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")?;
    io::copy(&mut file, &mut stream).map(drop)
}

/// What a fetch in a process of its own says of itself.
fn in_a_process(folder: &Path, kind: &str, url: &str) -> anyhow::Result<String> {
    let store = folder.join("store");
    let mut command = Command::new(std::env::current_exe()?);
    let output =
        command.arg("--fetch").arg(&store).args([kind, url]).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "fetching {url}: {}", output.status);
    fs::remove_dir_all(&store)?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::main]
async fn fetch(folder: &Path, kind: &str, url: &str) -> anyhow::Result<()> {
    let tasks = TaskGroup::new("unpacking");
    let disk = Disk::open(DiskSettings::new(folder, STORE_BYTES), &tasks)?;
    let near = Arc::clone(&disk);
    let instances = Arc::new(Instances::new(move |name| {
        let (cas, cache) = (near.cas(name), Arc::new(TreeCache::new(64 << 20)));
        let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), cache));
        Stores { cas, action_cache: near.action_cache(name), trees }
    }));
    let near = Arc::clone(&disk);
    let reach = Reach::new(vec!["127.0.0.1".parse()?], Vec::new(), Arc::new(|_| false));
    let records = Box::new(move |name: &InstanceName| near.assets(name));
    let assets =
        Assets::new(instances, records, disk, Origins::from_env(reach), LIMIT_BYTES, &tasks);
    let uris = vec![AssetUri::parse("uris", url)?];
    let kind = if kind == "blob" { Kind::Blob } else { Kind::Directory };
    let wanted = Fetch {
        instance: InstanceName::default(),
        kind,
        function: Function::Sha256,
        qualifiers: Qualifiers::parse(kind, &uris, [])?,
        uris,
        timeout: Some(Duration::from_secs(3600)),
        oldest: None,
    };
    let (began, before) = (Instant::now(), cpu(Whose::Own)?);
    assets.fetch(wanted, SystemTime::now()).await?;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu(Whose::Own)? - before);
    println!("{wall:.2}, {cpu:.2}, {}", peak_mib()?);
    Ok(())
}
