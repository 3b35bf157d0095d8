//! A load generator for any Remote Execution API server.
//!
//! Each workload is a closed loop of checked calls: how many a second, how long they took, what CPU time the server
//! spent on each (read from `/proc`, when its process is named), and what went wrong. Runs of several servers take
//! turns, since machines are noisy. The room knows the protocol and nothing of any server.
//!
//! It promises that no error is hidden: a failed or wrong answer is counted and shown, and the run as a whole fails.

mod args;
mod ceiling;
mod client;
mod digest;
mod drive;
mod failure;
mod measure;
mod payload;
mod report;
mod target;
mod wire;
mod workloads;

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, bail};

pub use args::{Address, Args, Header, Size};

use ceiling::Ceiling;
use client::{Client, Settings};
use drive::Plan;
use measure::Memory;
use payload::Source;
use report::Series;
use target::{Speech, Target};
use workloads::Row;

/// HTTP/2 frames are of 16 KiB to 16 MiB less one byte (RFC 9113, section 4.2).
const FRAME_BYTES: std::ops::Range<usize> = (16 << 10)..(16 << 20);

/// Runs what `args` ask for and prints it to standard output.
///
/// # Errors
/// When the options contradict each other, a server cannot be reached, or any call went wrong.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if args.serve_ceiling {
        return ceiling::serve().await;
    }
    let source = Arc::new(Source::new(args.digest_function));
    let rows = workloads::rows(&args, &source);
    if args.list {
        return list(&rows);
    }
    let rows = chosen(&args, rows)?;
    let (targets, _ceiling) = targets(&args).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", report::head())?;
    let mut all: Vec<Series> = Vec::new();
    let mut skipped = Vec::new();
    for row in &rows {
        for target in
            targets.iter().filter(|target| target.stores && !row.needs.met_by(target.offers))
        {
            skipped.push(format!("{} ({})", row.name, target.label));
        }
        for concurrency in concurrencies(&args, row) {
            let series = measure_row(&args, row, concurrency, &targets).await?;
            show(&mut out, &series)?;
            all.extend(series);
        }
    }
    if !skipped.is_empty() {
        writeln!(out, "not offered: {}", skipped.join(", "))?;
    }
    let memory = memory(&targets)?;
    for (server, memory) in &memory {
        writeln!(out, "{}", report::memory_line(server, *memory))?;
    }
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", report::json(&all, &memory, &skipped));
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    conclude(&args, &all, &skipped)
}

/// Fails when any call did, or when a workload that was asked for by name is not offered.
fn conclude(args: &Args, all: &[Series], skipped: &[String]) -> anyhow::Result<()> {
    let failures: u64 = all.iter().map(Series::failures).sum();
    if failures > 0 {
        bail!("{failures} calls failed");
    }
    if !args.only.is_empty() && !skipped.is_empty() {
        bail!("not offered: {}", skipped.join(", "));
    }
    Ok(())
}

/// Prints the workloads.
fn list(rows: &[Row]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for row in rows {
        let at_once: Vec<String> = row.concurrency.iter().map(u16::to_string).collect();
        writeln!(out, "{:<22} {:>6} at once  {}", row.name, at_once.join(","), row.about)?;
    }
    Ok(())
}

/// The rows that `--only` names, by their name or its beginning.
fn chosen(args: &Args, rows: Vec<Row>) -> anyhow::Result<Vec<Row>> {
    for name in &args.only {
        if !rows.iter().any(|row| row.name.starts_with(name.as_str())) {
            bail!("--only {name}: no workload begins with this; --list shows them");
        }
    }
    // A name that is complete means itself alone, although others may begin with it.
    let wanted = |row: &Row| {
        args.only.iter().any(|name| match rows.iter().any(|other| other.name == *name) {
            true => row.name == *name,
            false => row.name.starts_with(name.as_str()),
        })
    };
    let keep: Vec<bool> = rows.iter().map(|row| args.only.is_empty() || wanted(row)).collect();
    Ok(rows.into_iter().zip(keep).filter_map(|(row, keep)| keep.then_some(row)).collect())
}

/// Connects to all servers that are asked for.
async fn targets(args: &Args) -> anyhow::Result<(Vec<Arc<Target>>, Option<Ceiling>)> {
    if !FRAME_BYTES.contains(&args.frame_size.0) {
        bail!("--frame_size {}: must be from 16KiB to below 16MiB", args.frame_size);
    }
    let settings = Settings {
        connections: usize::from(args.connections),
        frame_bytes: args.frame_size.0 as u32,
        headers: args.headers(),
    };
    let speech = Speech {
        instance: args.instance.clone(),
        function: args.digest_function,
        message_bytes: args.message_size.0,
    };
    let ceiling = args.ceiling.then(Ceiling::start).transpose()?;
    let bare = ceiling.as_ref().map(|ceiling| (&ceiling.address, Some(ceiling.pid())));
    fn node(address: Option<&Address>, pid: Option<u32>) -> Option<(&Address, Option<u32>)> {
        address.map(|address| (address, pid))
    }
    let servers = [
        (
            "server",
            node(args.server.as_ref(), args.server_pid),
            node(args.through.as_ref(), args.through_pid),
        ),
        (
            "vs",
            node(args.vs.as_ref(), args.vs_pid),
            node(args.vs_through.as_ref(), args.vs_through_pid),
        ),
        ("ceiling", bare, None),
    ];
    let mut targets = Vec::new();
    for (label, server, through) in servers {
        let Some(server) = server else { continue };
        let mut target = target(label, server, &settings, &speech).await?;
        if let Some(through) = through {
            let label = format!("{label}, through");
            target = target.with_through(self::target(&label, through, &settings, &speech).await?);
        }
        target.stores = label != "ceiling";
        target.also.clone_from(&args.also_pid);
        targets.push(Arc::new(target));
    }
    Ok((targets, ceiling))
}

/// Connects to a server and asks what it offers.
async fn target(
    label: &str,
    (address, pid): (&Address, Option<u32>),
    settings: &Settings,
    speech: &Speech,
) -> anyhow::Result<Target> {
    let client = Client::connect(&address.0, settings.clone())
        .await
        .with_context(|| format!("cannot connect to {}", address.0))?;
    Target::new(label, pid, client, speech.clone())
        .await
        .with_context(|| format!("cannot get the capabilities of {}", address.0))
}

/// The concurrencies with which a row is run.
fn concurrencies(args: &Args, row: &Row) -> Vec<usize> {
    let asked = if args.concurrency.is_empty() { row.concurrency } else { &args.concurrency };
    asked.iter().map(|&number| usize::from(number)).collect()
}

/// Runs one row on every server that offers it, in turn, as often as is asked for.
async fn measure_row(
    args: &Args,
    row: &Row,
    concurrency: usize,
    targets: &[Arc<Target>],
) -> anyhow::Result<Vec<Series>> {
    let plan = Plan {
        concurrency,
        calls: args.count.unwrap_or(row.calls),
        duration: args.duration,
        timeout: args.timeout,
    };
    let able = |target: &&Arc<Target>| match target.stores {
        true => row.needs.met_by(target.offers),
        false => row.needs.met_by_bare(),
    };
    let able: Vec<&Arc<Target>> = targets.iter().filter(able).collect();
    let series = |target: &&Arc<Target>| Series {
        name: row.name.clone(),
        concurrency,
        server: target.label.clone(),
        runs: Vec::new(),
    };
    let mut all: Vec<Series> = able.iter().map(series).collect();
    for run in 0..args.runs {
        let mut order: Vec<usize> = (0..able.len()).collect();
        // Who goes first has a warm or a noisy machine: take turns in that, too.
        if run % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let sample = drive::run(able[index], row.workload.as_ref(), plan)
                .await
                .with_context(|| format!("{} on {}", row.name, able[index].label))?;
            all[index].runs.push(sample);
        }
    }
    Ok(all)
}

/// Prints what a row showed.
fn show(out: &mut impl Write, series: &[Series]) -> std::io::Result<()> {
    for one in series {
        writeln!(out, "{}", one.line())?;
        for remark in one.remarks() {
            writeln!(out, "{remark}")?;
        }
    }
    if let [first, second, ..] = series
        && let Some(line) = report::ratios(first, second)
    {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// Memory of the servers whose processes are known; our bare one's says nothing.
fn memory(targets: &[Arc<Target>]) -> anyhow::Result<Vec<(String, Memory)>> {
    let nodes = targets.iter().filter(|target| target.stores);
    nodes
        .flat_map(|target| [Some(&**target), target.through.as_deref()])
        .flatten()
        .filter_map(|target| Some((target.label.clone(), target.pid?)))
        .map(|(label, pid)| Ok((label, Memory::of_tree(pid)?)))
        .collect()
}

#[cfg(test)]
mod tests;
