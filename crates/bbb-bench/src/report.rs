//! What is shown: one line for each workload, concurrency and server; ratios of pairs; JSON of everything.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::drive::Sample;
use crate::measure::{Memory, median};

/// A row as it was run on one server.
#[derive(Debug)]
pub(crate) struct Series {
    /// Name of the workload.
    pub(crate) name: String,
    /// Calls at once.
    pub(crate) concurrency: usize,
    /// Label of the server.
    pub(crate) server: String,
    /// The runs, in the order in which they were made.
    pub(crate) runs: Vec<Sample>,
}

/// Figures of one run, or medians of several. What cannot be known is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Calls a second that were answered well.
    pub(crate) per_second: Option<f64>,
    /// Latencies in milliseconds.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p95_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// CPU milliseconds per call of the server with its children, and of the server's process alone.
    pub(crate) cpu_ms: Option<f64>,
    pub(crate) own_cpu_ms: Option<f64>,
    /// CPU milliseconds per call of the other node, of the processes that were named beside both, and of all of these.
    pub(crate) through_ms: Option<f64>,
    pub(crate) also_ms: Option<f64>,
    pub(crate) all_ms: Option<f64>,
    /// CPU milliseconds per call of this program.
    pub(crate) client_ms: Option<f64>,
    /// Bytes of blobs a second.
    pub(crate) bytes_per_second: Option<f64>,
    /// Processors kept busy: by the server and its children, by this program, by anything else.
    pub(crate) server_busy: Option<f64>,
    pub(crate) client_busy: Option<f64>,
    pub(crate) other_busy: Option<f64>,
}

/// A figure: its name, and where it is.
type Figure = (&'static str, fn(&mut Figures) -> &mut Option<f64>);
/// Each figure in turn, with its name in JSON.
const FIGURES: [Figure; 14] = [
    ("calls_per_second", |f| &mut f.per_second),
    ("p50_ms", |f| &mut f.p50_ms),
    ("p95_ms", |f| &mut f.p95_ms),
    ("p99_ms", |f| &mut f.p99_ms),
    ("server_cpu_ms_per_call", |f| &mut f.cpu_ms),
    ("server_own_cpu_ms_per_call", |f| &mut f.own_cpu_ms),
    ("through_cpu_ms_per_call", |f| &mut f.through_ms),
    ("also_cpu_ms_per_call", |f| &mut f.also_ms),
    ("all_cpu_ms_per_call", |f| &mut f.all_ms),
    ("client_cpu_ms_per_call", |f| &mut f.client_ms),
    ("bytes_per_second", |f| &mut f.bytes_per_second),
    ("server_processors", |f| &mut f.server_busy),
    ("client_processors", |f| &mut f.client_busy),
    ("other_processors", |f| &mut f.other_busy),
];

impl Figures {
    /// The figures of one run. CPU time is divided by the calls that were answered well: failures make them dearer.
    pub(crate) fn of(run: &Sample) -> Self {
        let answered = run.latency.count();
        if answered == 0 {
            return Self::default();
        }
        let wall = run.wall.as_secs_f64();
        let share = |time: Duration| Some(time.as_secs_f64() / wall);
        let per_call = |time: Duration| Some(time.as_secs_f64() * 1e3 / answered as f64);
        let server = run.server.map(|used| used.total());
        let through = run.through.map(|used| used.total());
        let sides = through.unwrap_or_default() + run.also.unwrap_or_default();
        let all = server.map(|server| server + sides);
        let others = all.map(|all| run.machine.saturating_sub(all).saturating_sub(run.client));
        Self {
            per_second: Some(answered as f64 / wall),
            p50_ms: run.latency.quantile_ms(0.50),
            p95_ms: run.latency.quantile_ms(0.95),
            p99_ms: run.latency.quantile_ms(0.99),
            cpu_ms: server.and_then(per_call),
            own_cpu_ms: run.server.and_then(|used| per_call(used.own)),
            through_ms: through.and_then(per_call),
            also_ms: run.also.and_then(per_call),
            all_ms: all.filter(|_| through.is_some()).and_then(per_call),
            client_ms: per_call(run.client),
            bytes_per_second: (run.bytes > 0).then(|| run.bytes as f64 / wall),
            server_busy: server.and_then(share),
            client_busy: share(run.client),
            other_busy: others.and_then(share),
        }
    }

    /// Figure by figure the medians of `runs`.
    pub(crate) fn medians(runs: &[Sample]) -> Self {
        let all: Vec<Self> = runs.iter().map(Self::of).collect();
        let mut medians = Self::default();
        for (_, figure) in FIGURES {
            *figure(&mut medians) = median(all.iter().filter_map(|run| *figure(&mut run.clone())));
        }
        medians
    }

    fn json(mut self) -> Value {
        FIGURES
            .iter()
            .map(|(name, figure)| ((*name).to_owned(), json!(*figure(&mut self))))
            .collect()
    }
}

impl Series {
    /// Failures in all runs.
    pub(crate) fn failures(&self) -> u64 {
        self.runs.iter().map(|run| run.failures.total()).sum()
    }

    /// One line of the table.
    pub(crate) fn line(&self) -> String {
        let f = Figures::medians(&self.runs);
        let megabytes = f.bytes_per_second.map(|bytes| bytes / 1e6);
        let busy = [f.server_busy, f.client_busy, f.other_busy];
        let busy =
            busy.map(|busy| busy.map_or_else(|| "-".to_owned(), |busy| format!("{busy:.1}")));
        format!(
            "{:<22} {:>5} {:<8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>7} {:>12} {:>6}",
            self.name,
            self.concurrency,
            self.server,
            number(f.per_second),
            number(f.p50_ms),
            number(f.p95_ms),
            number(f.p99_ms),
            number(f.cpu_ms),
            number(f.own_cpu_ms),
            number(f.client_ms),
            number(megabytes),
            busy.join("/"),
            self.failures(),
        )
    }

    /// What went wrong and what else there is to say: lines below the table's line.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut all = crate::failure::Failures::default();
        self.runs.iter().for_each(|run| all.merge(&run.failures));
        let failed = all
            .classes()
            .map(|(class, count, story)| format!("    {count} times {class}, first: {story}"));
        let said: Vec<&str> = self.runs.iter().filter_map(|run| run.remark.as_deref()).collect();
        let said = (!said.is_empty()).then(|| format!("    {}", said.join("; ")));
        failed.chain(said).chain(self.sides()).collect()
    }

    /// CPU time beside that of the server, if it was asked for.
    fn sides(&self) -> Option<String> {
        let f = Figures::medians(&self.runs);
        let sides = [("through", f.through_ms), ("also", f.also_ms), ("all", f.all_ms)];
        let known = sides.iter().filter(|(_, ms)| ms.is_some());
        let known: Vec<_> = known.map(|(side, ms)| format!("{side} {}", number(*ms))).collect();
        (!known.is_empty()).then(|| format!("    CPU ms: {}", known.join(", ")))
    }

    fn json(&self) -> Value {
        let run = |run: &Sample| {
            json!({
                "figures": Figures::of(run).json(),
                "calls": run.latency.count(),
                "seconds": run.wall.as_secs_f64(),
                "bytes": run.bytes,
                "server_own_cpu_seconds": run.server.map(|used| used.own.as_secs_f64()),
                "server_children_cpu_seconds": run.server.map(|used| used.children.as_secs_f64()),
                "failures": run.failures.classes()
                    .map(|(class, count, first)| json!({"class": class, "count": count, "first": first}))
                    .collect::<Vec<_>>(),
                "remark": run.remark,
            })
        };
        json!({
            "workload": self.name,
            "concurrency": self.concurrency,
            "server": self.server,
            "medians": Figures::medians(&self.runs).json(),
            "runs": self.runs.iter().map(run).collect::<Vec<_>>(),
        })
    }
}

/// The head of the table.
pub(crate) fn head() -> String {
    format!(
        "{:<22} {:>5} {:<8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>7} {:>12} {:>6}\n\
         {:<22} {:>5} {:<8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>7} {:>12} {:>6}",
        "workload",
        "at",
        "server",
        "calls",
        "p50",
        "p95",
        "p99",
        "server",
        "its own",
        "client",
        "MB",
        "busy: server/",
        "errors",
        "",
        "once",
        "",
        "/s",
        "ms",
        "ms",
        "ms",
        "CPU ms",
        "CPU ms",
        "CPU ms",
        "/s",
        "client/other",
        "",
    )
}

/// How the second of two servers compares with the first, pair by pair of runs: medians and extremes of first by
/// second. Below 1 the first takes less.
pub(crate) fn ratios(first: &Series, second: &Series) -> Option<String> {
    let mut line = format!("    {} / {}:", first.server, second.server);
    let mut known = false;
    const COMPARED: [Figure; 5] = [
        ("calls/s", |f| &mut f.per_second),
        ("p50", |f| &mut f.p50_ms),
        ("server CPU", |f| &mut f.cpu_ms),
        ("through CPU", |f| &mut f.through_ms),
        ("all CPU", |f| &mut f.all_ms),
    ];
    for (name, figure) in COMPARED {
        let of_pair = |(one, two): (&Sample, &Sample)| {
            let (one, two) = ((*figure(&mut Figures::of(one)))?, (*figure(&mut Figures::of(two)))?);
            (two > 0.0).then_some(one / two)
        };
        let mut ratios: Vec<f64> =
            first.runs.iter().zip(&second.runs).filter_map(of_pair).collect();
        ratios.sort_by(f64::total_cmp);
        let (Some(middle), Some(low), Some(high)) =
            (median(ratios.iter().copied()), ratios.first(), ratios.last())
        else {
            continue;
        };
        known = true;
        // Writing to a String cannot fail.
        let _ = write!(line, "  {name} {middle:.2} ({low:.2} to {high:.2})");
    }
    known.then_some(line)
}

/// A line about the memory of a server.
pub(crate) fn memory_line(server: &str, memory: Memory) -> String {
    let mb = |bytes: u64| number(Some(bytes as f64 / 1e6));
    format!(
        "memory after all of it, {server}: {} MB resident, {} MB at its peak, its children {} MB",
        mb(memory.resident),
        mb(memory.peak),
        mb(memory.descendants),
    )
}

/// Everything, for machines.
pub(crate) fn json(series: &[Series], memory: &[(String, Memory)], skipped: &[String]) -> Value {
    json!({
        "workloads": series.iter().map(Series::json).collect::<Vec<_>>(),
        "memory": memory.iter().map(|(server, memory)| json!({
            "server": server,
            "resident_bytes": memory.resident,
            "peak_bytes": memory.peak,
            "descendants_bytes": memory.descendants,
        })).collect::<Vec<_>>(),
        "not_offered": skipped,
    })
}

/// A number with three significant digits, or a dash.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) if value >= 1.0 => format!("{value:.2}"),
        Some(value) if value >= 0.1 => format!("{value:.3}"),
        Some(value) => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests;
