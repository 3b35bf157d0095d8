//! What a run costs: p50 of its time and processor time per run, one at a time and 64 at once, beside plain fork and exec of the same program
//! and bubblewrap with comparable walls. Then the same from a process that holds much memory.
//!
//! `cargo run --release -p bbb-sandbox --example spawn [FOLDER [GIGABYTES]]`

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bbb_sandbox::{Config, ExecRoot, Launched, Limits, Mode, Request, Sandbox, Staging};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is run.
const PROGRAM: &str = "/bin/true";

/// Where distributions have bubblewrap: a program that is searched for is forked for.
const BWRAP: &str = "/usr/bin/bwrap";

/// Runs that are measured one at a time, and many at once.
const ONE: Load = Load { width: 1, count: 300 };
const MANY: Load = Load { width: 64, count: 2000 };

fn main() -> Result<(), Failure> {
    bbb_sandbox::launcher::main_if_launcher();
    let mut arguments = std::env::args_os().skip(1);
    let base = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let gigabytes: usize = arguments.next().map_or(Ok(4), |text| text.to_string_lossy().parse())?;
    let folder = base.join(format!("bbb-sandbox-spawn-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = measure_all(&runtime, &folder, "").and_then(|()| {
        // Every page is written to, so that each has an entry in the page table.
        let held = std::hint::black_box(vec![1u8; gigabytes << 30]);
        measure_all(&runtime, &folder, &format!("holding {} GiB", held.len() >> 30))
    });
    let _ = bbb_sandbox::remove_tree(&folder);
    outcome
}

fn measure_all(
    runtime: &tokio::runtime::Runtime,
    folder: &Path,
    what: &str,
) -> Result<(), Failure> {
    println!(
        "{what:<42}{:>11}{:>11}{:>11}{:>13}",
        "p50 ms, 1", "CPU ms, 1", "CPU ms, 64", "a second, 64"
    );
    plain("posix_spawn", || Command::new(PROGRAM))?;
    plain("fork and exec", || {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(PROGRAM);
        // What `posix_spawn` cannot do has the standard library fork.
        command.uid(rustix::process::getuid().as_raw());
        command
    })?;
    let root = folder.join("bwrap");
    std::fs::create_dir_all(&root)?;
    if Path::new(BWRAP).exists() {
        plain("bwrap", || bubblewrap(&root))?;
    }
    runtime.block_on(sandboxed(folder))
}

/// Namespaces, system folders, an exec root that may be written to, `/proc`, `/dev` and `/tmp`, as the sandbox has them.
fn bubblewrap(root: &Path) -> Command {
    let mut command = Command::new(BWRAP);
    command.args(["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
    command.args(["--hostname", "localhost", "--uid", "1000", "--gid", "1000", "--clearenv"]);
    for system in bbb_sandbox::SYSTEM_FOLDERS {
        match std::fs::read_link(system) {
            Ok(target) => command.arg("--symlink").arg(target).arg(system),
            Err(_) => command.args(["--ro-bind-try", system, system]),
        };
    }
    command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    command.arg("--bind").arg(root).args(["/build", "--chdir", "/build", PROGRAM]);
    command
}

async fn sandboxed(folder: &Path) -> Result<(), Failure> {
    let none = Limits::default();
    // As the worker has it; fewer than a thousand would take a control group.
    let processes = Limits { processes: Some(4096), ..none };
    let both = Limits { memory_bytes: Some(1 << 30), ..processes };
    let overlay = Staging::Overlay;
    for (name, mode, staging, limits) in [
        ("ours, no namespaces", Mode::None, Staging::Plain, none),
        ("ours, namespaces, plain exec root", Mode::Namespaces, Staging::Plain, none),
        ("ours, namespaces, overlay", Mode::Namespaces, overlay, none),
        ("ours, overlay, processes limited", Mode::Namespaces, overlay, processes),
        ("ours, overlay, memory limited too", Mode::Namespaces, overlay, both),
    ] {
        let mut config = Config::new(folder.to_owned());
        config.mode = mode;
        let sandbox = Arc::new(bbb_sandbox::start(config).await?);
        let one = measure(&sandbox, folder, staging, limits, ONE).await?;
        let many = measure(&sandbox, folder, staging, limits, MANY).await?;
        print(name, &one, &many);
    }
    Ok(())
}

/// How many runs, and how many of them at once.
#[derive(Clone, Copy)]
struct Load {
    width: usize,
    count: usize,
}

struct Figures {
    p50: Duration,
    cpu: Duration,
    wall: Duration,
}

fn print(name: &str, one: &Figures, many: &Figures) {
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1000.0);
    println!(
        "{name:<42}{:>11}{:>11}{:>11}{:>13.0}",
        ms(one.p50),
        ms(one.cpu),
        ms(many.cpu),
        1.0 / many.wall.as_secs_f64()
    );
}

/// Measures a command that is started by the standard library.
fn plain(name: &str, command: impl Fn() -> Command + Sync) -> Result<(), Failure> {
    let run = |load: Load| -> Result<Figures, Failure> {
        let next = AtomicUsize::new(0);
        let lane = || -> std::io::Result<Vec<Duration>> {
            let mut times = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < load.count {
                let begin = Instant::now();
                if !command().env_clear().env("PATH", "/usr/bin:/bin").status()?.success() {
                    return Err(std::io::Error::other("the command failed"));
                }
                times.push(begin.elapsed());
            }
            Ok(times)
        };
        let (used, start) = (cpu(None)?, Instant::now());
        let times = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..load.width).map(|_| scope.spawn(lane)).collect();
            let times = lanes.into_iter().map(|lane| {
                lane.join().map_err(|_| std::io::Error::other("a lane panicked")).flatten()
            });
            times.collect::<std::io::Result<Vec<_>>>()
        })?;
        Ok(figures(times.concat(), cpu(None)? - used, start.elapsed()))
    };
    run(Load { width: 1, count: 20 })?;
    let (one, many) = (run(ONE)?, run(MANY)?);
    print(name, &one, &many);
    Ok(())
}

async fn measure(
    sandbox: &Arc<Launched>,
    folder: &Path,
    staging: Staging,
    limits: Limits,
    load: Load,
) -> Result<Figures, Failure> {
    let Load { width, count } = load;
    // Staged beforehand: the folders are not what is measured.
    let requests = (0..count + 20)
        .map(|number| stage(&folder.join(format!("{width}-{number}")), folder, staging, limits))
        .collect::<Result<Vec<_>, _>>()?;
    for request in &requests[count..] {
        sandbox.run(request.clone()).await?;
    }
    let requests = Arc::new(requests);
    let next = Arc::new(AtomicUsize::new(0));
    let launcher = Some(sandbox.launcher_process().await);
    let (used, start) = (cpu(launcher)?, Instant::now());
    let mut lanes = tokio::task::JoinSet::new();
    for _ in 0..width {
        let (sandbox, requests, next) = (sandbox.clone(), requests.clone(), next.clone());
        lanes.spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, bbb_sandbox::Error>(times);
                }
                let begin = Instant::now();
                sandbox.run(requests[number].clone()).await?;
                times.push(begin.elapsed());
            }
        });
    }
    let mut times = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        times.extend(lane??);
    }
    let wall = start.elapsed();
    // The launcher takes in the last inits: they count too.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let figures = figures(times, cpu(launcher)? - used, wall);
    for request in requests.iter() {
        if let Some(folder) = request.temporary.parent() {
            bbb_sandbox::remove_tree(folder)?;
        }
    }
    Ok(figures)
}

fn stage(folder: &Path, base: &Path, staging: Staging, limits: Limits) -> Result<Request, Failure> {
    let lower = base.join("lower");
    std::fs::create_dir_all(&lower)?;
    for name in ["upper", "work", "tmp"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    for name in ["stdout", "stderr"] {
        std::fs::write(folder.join(name), b"")?;
    }
    let upper = folder.join("upper");
    let root = match staging {
        Staging::Plain => ExecRoot::Plain(upper),
        Staging::Overlay => {
            ExecRoot::Overlay { lowers: vec![lower], upper, work: folder.join("work") }
        }
    };
    let (tmp, stdout, stderr) = (folder.join("tmp"), folder.join("stdout"), folder.join("stderr"));
    let mut request = Request::new(vec![PROGRAM.into()], root, tmp, stdout, stderr);
    request.limits = limits;
    Ok(request)
}

fn figures(mut times: Vec<Duration>, cpu: Duration, wall: Duration) -> Figures {
    times.sort();
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
    Figures { p50: times[times.len() / 2], cpu: cpu / count, wall: wall / count }
}

/// Processor time of this process, its children, the launcher and its children. It misses what the kernel does later
/// for nobody's account, but also what others do on the machine.
fn cpu(launcher: Option<u32>) -> Result<Duration, Failure> {
    let mut ticks = 0;
    for process in std::iter::once(std::process::id()).chain(launcher) {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        // utime, stime, cutime, cstime: fields 14 to 17; the third is the first here. A hundredth of a second each.
        ticks += fields
            .split_ascii_whitespace()
            .skip(11)
            .take(4)
            .map(|f| f.parse().unwrap_or(0))
            .sum::<u64>();
    }
    Ok(Duration::from_millis(ticks * 10))
}
