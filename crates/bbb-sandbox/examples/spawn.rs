//! What a run costs: p50 of its time, and processor time per run, beside a plain fork and exec of the same program.
//!
//! `cargo run --release -p bbb-sandbox --example spawn [FOLDER]`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bbb_sandbox::{Config, ExecRoot, Launched, Limits, Mode, Request, Sandbox, Staging};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    bbb_sandbox::launcher::main_if_launcher();
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = base.join(format!("bbb-sandbox-spawn-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(measure_all(&folder));
    let _ = bbb_sandbox::remove_tree(&folder);
    outcome
}

async fn measure_all(folder: &Path) -> Result<(), Failure> {
    println!("{:<34}{:>14}{:>14}{:>14}", "", "p50 ms, 1", "CPU ms, 1", "CPU ms, 64");
    plain()?;
    let limits = Limits {
        memory_bytes: Some(1 << 30),
        processes: Some(1000),
        cpu_thousandths: None,
        open_files: None,
    };
    for (name, mode, staging, limits) in [
        ("no namespaces", Mode::None, Staging::Plain, Limits::default()),
        ("namespaces, plain exec root", Mode::Namespaces, Staging::Plain, Limits::default()),
        ("namespaces, overlay", Mode::Namespaces, Staging::Overlay, Limits::default()),
        ("namespaces, overlay, limits", Mode::Namespaces, Staging::Overlay, limits),
    ] {
        let mut config = Config::new(folder.to_owned());
        config.mode = mode;
        let sandbox = Arc::new(bbb_sandbox::start(config).await?);
        let one = measure(&sandbox, folder, staging, limits, 1, 300).await?;
        let many = measure(&sandbox, folder, staging, limits, 64, 2000).await?;
        print(name, &one, &many);
        println!("    {}", sandbox.probe());
    }
    Ok(())
}

struct Figures {
    p50: Duration,
    cpu: Duration,
    wall: Duration,
}

fn print(name: &str, one: &Figures, many: &Figures) {
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1000.0);
    println!(
        "{name:<34}{:>14}{:>14}{:>14}   ({:.0} a second)",
        ms(one.p50),
        ms(one.cpu),
        ms(many.cpu),
        1.0 / many.wall.as_secs_f64()
    );
}

fn plain() -> Result<(), Failure> {
    let run = |count: usize| -> Result<Figures, Failure> {
        let mut times = Vec::new();
        let (used, start) = (cpu(None)?, Instant::now());
        for _ in 0..count {
            let begin = Instant::now();
            std::process::Command::new("/bin/true").env_clear().status()?;
            times.push(begin.elapsed());
        }
        Ok(figures(times, cpu(None)? - used, start.elapsed()))
    };
    run(50)?;
    let figures = run(500)?;
    print("fork and exec by std", &figures, &figures);
    Ok(())
}

async fn measure(
    sandbox: &Arc<Launched>,
    folder: &Path,
    staging: Staging,
    limits: Limits,
    width: usize,
    count: usize,
) -> Result<Figures, Failure> {
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
    let mut request = Request::new(vec!["/bin/true".into()], root, tmp, stdout, stderr);
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
