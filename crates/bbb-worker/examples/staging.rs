//! What it takes to give an action its inputs, beside hard-linking and copying of the same tree in the same run.
//!
//! `cargo run --release -p bbb-worker --example staging [FOLDER [behind] [FILES...]]`
//!
//! *cold*: the blobs are on disk, but no directory of the tree was ever seen. *warm*: the tree is that of the action before. *changed*: it is
//! that tree with one file of it new. Each action runs `/bin/true`; staging ends when it begins. Processor times are of whole
//! actions, the launcher and what it starts included.
//! *no-op behind*: whole actions without inputs, one after the other, alone and while what an action left is removed: as many files, made in
//! its exec root. With `behind` this is measured alone.

use std::{
    error,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_reapi::{ToProto as _, proto::reapi};
use bbb_sandbox::{Config, Launched};
use bbb_scheduler::{ActionKey, AttemptId, OperationId, Outcome, Progress, Submission, Task};
use bbb_storage::{
    Cas, Complete, Disk, DiskSettings, Instances, LocalFiles, Stores, TreeCache, Trees,
};
use bbb_worker::{Executor as _, Local, Report, Settings};
use prost::Message as _;

type Failure = Box<dyn error::Error + Send + Sync>;

const FUNCTION: Function = Function::Sha256;

/// Files in one directory.
const FANOUT: usize = 100;

/// How often each kind of action runs.
const COLD: u32 = 3;
const WARM: u32 = 9;
const BEHIND: u32 = 100;

fn main() -> Result<(), Failure> {
    bbb_sandbox::launcher::main_if_launcher();
    let mut arguments = std::env::args().skip(1).peekable();
    let base = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let stages = arguments.next_if_eq("behind").is_none();
    let mut sizes = arguments.map(|size| size.parse()).collect::<Result<Vec<usize>, _>>()?;
    if sizes.is_empty() {
        sizes = vec![10, 1000, 10_000, 100_000];
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let folder = base.join(format!("bbb-worker-staging-{}", std::process::id()));
    if stages {
        println!("p50 of staging in ms (CPU ms of the action)");
        println!(
            "{:>8}{:>20}{:>20}{:>20}{:>20}{:>20}",
            "files", "cold", "warm", "changed", "hard links", "copies"
        );
        for files in &sizes {
            let outcome = within(&folder, || runtime.block_on(measure(&folder, *files)));
            println!("{files:>8}{}", outcome?);
        }
    }
    println!("p50 (max) of no-op actions in ms, alone and behind an action that left files");
    for files in &sizes {
        let outcome = within(&folder, || runtime.block_on(measure_behind(&folder, *files)));
        println!("{files:>8}{}", outcome?);
    }
    Ok(())
}

/// Does something in a folder that is there meanwhile.
fn within<T>(folder: &Path, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    std::fs::create_dir_all(folder)?;
    let outcome = work();
    let _ = bbb_sandbox::remove_tree(folder);
    outcome
}

async fn measure(folder: &Path, files: usize) -> Result<String, Failure> {
    let tasks = TaskGroup::new("staging");
    let bench = Bench::start(folder, &tasks).await?;
    let contents: Vec<_> = (0..files).map(|file| format!("{file:>100}\n").into_bytes()).collect();
    for content in &contents {
        bench.put(content.clone()).await?;
    }
    let mut all = vec![Vec::new(); 3];
    let mut last = None;
    for round in 0..COLD {
        last = Some(bench.tree(&contents, round, None).await?);
        all[0].push(bench.action(last, round).await?);
    }
    for round in 0..WARM {
        all[1].push(bench.action(last, 1000 + round).await?);
    }
    for round in 0..WARM {
        let tree = bench.tree(&contents, COLD - 1, Some(round)).await?;
        all[2].push(bench.action(Some(tree), round).await?);
    }
    let source = folder.join("source");
    fill(&source, files, |file, path| std::fs::write(path, &contents[file]))?;
    for copies in [false, true] {
        let plain = (0..COLD).map(|round| {
            let (begin, used) = (Instant::now(), cpu(None)?);
            fill(&folder.join(format!("plain-{copies}-{round}")), files, |file, path| {
                let from = source.join(place(file));
                if copies {
                    std::fs::copy(from, path).map(drop)
                } else {
                    std::fs::hard_link(from, path)
                }
            })?;
            Ok((begin.elapsed(), cpu(None)?.saturating_sub(used)))
        });
        all.push(plain.collect::<Result<_, Failure>>()?);
    }
    drop(bench);
    tasks.shut_down(Duration::from_secs(10)).await;
    Ok(all.into_iter().map(said).collect())
}

/// No-op actions alone, and while the files of another one are removed.
async fn measure_behind(folder: &Path, files: usize) -> Result<String, Failure> {
    let tasks = TaskGroup::new("staging");
    let bench = Bench::start(folder, &tasks).await?;
    let mut number = 0;
    let mut noop = async || {
        number += 1;
        let begin = Instant::now();
        bench.run(None, &["/bin/true"], number).await?;
        Ok::<_, Failure>(begin.elapsed())
    };
    let mut alone = Vec::new();
    for _ in 0..BEHIND {
        alone.push(noop().await?);
    }
    // 100 to a folder, as the trees above.
    let script = format!(
        "for (0..{}) {{ mkdir $d = int($_ / 100) if $_ % 100 == 0; open F, qq(>$d/$_) }}",
        files - 1
    );
    bench.run(None, &["/usr/bin/perl", "-e", &script], 0).await?;
    let there = || std::fs::read_dir(folder.join("store/scratch/actions")).map(Iterator::count);
    let (begin, before) = (Instant::now(), there()?);
    let mut behind = Vec::new();
    for _ in 0..BEHIND {
        behind.push(noop().await?);
    }
    let took = begin.elapsed();
    let left = there()?.saturating_sub(before);
    drop(bench);
    tasks.shut_down(Duration::from_secs(60)).await;
    let removed = begin.elapsed();
    let line = |mut times: Vec<Duration>| {
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        format!("{:.1} ({:.1})", ms(times[times.len() / 2]), ms(times[times.len() - 1]))
    };
    Ok(format!(
        "{:>20}{:>20}, in {:.1} s; {left} more folders then; all was gone after {:.1} s",
        line(alone),
        line(behind),
        took.as_secs_f64(),
        removed.as_secs_f64()
    ))
}

/// The median of times, and the mean of processor times, which the kernel counts in units of 10 ms.
fn said(mut samples: Vec<(Duration, Duration)>) -> String {
    samples.sort();
    let count = u32::try_from(samples.len()).unwrap_or(u32::MAX);
    let cpu = samples.iter().map(|(_, cpu)| *cpu).sum::<Duration>() / count;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:>20}", format!("{:.1} ({:.1})", ms(samples[samples.len() / 2].0), ms(cpu)))
}

fn place(file: usize) -> String {
    format!("{}/{file}", file / FANOUT)
}

fn fill(
    folder: &Path,
    files: usize,
    make: impl Fn(usize, &Path) -> std::io::Result<()>,
) -> Result<(), Failure> {
    for file in 0..files {
        let path = folder.join(place(file));
        if file % FANOUT == 0 {
            std::fs::create_dir_all(folder.join((file / FANOUT).to_string()))?;
        }
        make(file, &path)?;
    }
    Ok(())
}

/// A worker on a store of its own.
struct Bench {
    local: Local,
    stores: Stores,
    sandbox: Arc<Launched>,
}

impl Bench {
    async fn start(folder: &Path, tasks: &TaskGroup) -> Result<Self, Failure> {
        let disk = Disk::open(DiskSettings::new(folder.join("store"), 64 << 30), tasks)?;
        let cache = Arc::new(TreeCache::new(256 << 20));
        let of = Arc::clone(&disk);
        let instances = Arc::new(Instances::new(move |name: &InstanceName| {
            let cas: Arc<dyn Cas> = of.cas(name);
            let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&cache)));
            let complete =
                Complete::new(of.action_cache(name), Arc::clone(&cas), Arc::clone(&trees));
            Stores { cas, action_cache: Arc::new(complete), trees }
        }));
        let stores = instances.get(&InstanceName::default());
        let sandbox = Arc::new(bbb_sandbox::start(Config::new(disk.scratch())).await?);
        let settings = Settings::new("bench", disk.scratch().join("actions"));
        let local = Local::new(settings, instances, Arc::clone(&sandbox) as _, tasks)?;
        let links = Arc::clone(&disk);
        let local = local
            .linking(move |instance| links.local_files(instance) as Arc<dyn LocalFiles>)
            .keeping_trees(disk.lodging(), tasks)?;
        Ok(Self { local, stores, sandbox })
    }

    async fn put(&self, content: Vec<u8>) -> Result<Digest, Failure> {
        let digest = Digest::of(FUNCTION, &content);
        self.stores.cas.put(digest, content.into()).await?;
        Ok(digest)
    }

    /// Stores a tree of these files, whose names say `salt`, and of which perhaps one is changed.
    async fn tree(
        &self,
        contents: &[Vec<u8>],
        salt: u32,
        changed: Option<u32>,
    ) -> Result<Digest, Failure> {
        let mut root = reapi::Directory::default();
        for (index, part) in contents.chunks(FANOUT).enumerate() {
            let mut directory = reapi::Directory::default();
            for (file, content) in part.iter().enumerate() {
                let digest = Some(Digest::of(FUNCTION, content).to_proto());
                let name = format!("{salt}-{}", index * FANOUT + file);
                directory.files.push(reapi::FileNode { name, digest, ..Default::default() });
            }
            if let (0, Some(number)) = (index, changed) {
                let digest = self.put(format!("changed {number}\n").into_bytes()).await?;
                directory.files[0].digest = Some(digest.to_proto());
            }
            directory.files.sort_by(|one, other| one.name.cmp(&other.name));
            let digest = Some(self.put(directory.encode_to_vec()).await?.to_proto());
            root.directories.push(reapi::DirectoryNode { name: index.to_string(), digest });
        }
        root.directories.sort_by(|one, other| one.name.cmp(&other.name));
        self.put(root.encode_to_vec()).await
    }

    /// Runs an action over a tree: how long it took to be staged, and what all of it cost.
    async fn action(
        &self,
        tree: Option<Digest>,
        number: u32,
    ) -> Result<(Duration, Duration), Failure> {
        let launcher = Some(self.sandbox.launcher_process().await);
        let used = cpu(launcher)?;
        let staged = self.run(tree, &["/bin/true"], number).await?;
        // What is removed behind is part of the price.
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok((staged, cpu(launcher)?.saturating_sub(used)))
    }

    /// Runs a command over a tree; how long it took to be staged.
    async fn run(
        &self,
        tree: Option<Digest>,
        arguments: &[&str],
        number: u32,
    ) -> Result<Duration, Failure> {
        let number_too = number.to_string();
        let arguments = arguments.iter().copied().chain([number_too.as_str()]);
        let arguments = arguments.map(str::to_owned).collect();
        let tree = match tree {
            Some(tree) => tree,
            None => self.put(reapi::Directory::default().encode_to_vec()).await?,
        };
        let command = reapi::Command { arguments, ..Default::default() };
        let command = self.put(command.encode_to_vec()).await?;
        let action = reapi::Action {
            command_digest: Some(command.to_proto()),
            input_root_digest: Some(tree.to_proto()),
            do_not_cache: true,
            ..Default::default()
        };
        let action = self.put(action.encode_to_vec()).await?;
        let task = Task {
            attempt_id: AttemptId(u128::from(number)),
            operation: OperationId(u128::from(number)),
            submission: Submission {
                timeout: Duration::from_secs(600),
                ..Submission::of(ActionKey { instance: InstanceName::default(), action })
            },
            queued_at: SystemTime::now(),
            attempt: 1,
        };
        let (begin, began) = (Instant::now(), Arc::new(Mutex::new(None)));
        let seen = Arc::clone(&began);
        let report = Report::to(move |progress| {
            if progress == Progress::Running {
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(begin.elapsed());
            }
        });
        match self.local.execute(task, report).await {
            Outcome::Decided(bytes) => {
                let response = reapi::ExecuteResponse::decode(bytes)?;
                let status = response.status.unwrap_or_default();
                if status.code != 0 || response.result.is_none_or(|result| result.exit_code != 0) {
                    return Err(format!("the action failed: {}", status.message).into());
                }
            }
            Outcome::Failed(reason) => return Err(reason.into()),
        }
        let staged = *began.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(staged.ok_or("it did not begin")?)
    }
}

/// Processor time of this process, its children, the launcher and its children.
fn cpu(launcher: Option<u32>) -> Result<Duration, Failure> {
    let mut ticks = 0;
    for process in std::iter::once(std::process::id()).chain(launcher) {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        // utime, stime, cutime, cstime: fields 14 to 17; the third is the first here.
        ticks += fields
            .split_ascii_whitespace()
            .skip(11)
            .take(4)
            .map(|field| field.parse().unwrap_or(0))
            .sum::<u64>();
    }
    Ok(Duration::from_millis(ticks * 10))
}
