//! The closed loop: some callers, each of which makes its next call when the last is answered.
//!
//! It knows workloads only by their trait, and looks at clocks and `/proc` outside of the calls.

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::task::JoinSet;

use crate::failure::{Failure, Failures};
use crate::measure::{Cpu, CpuUsed, Histogram, machine_busy, own_cpu};
use crate::target::Target;

/// A tenth of a run's calls at most, and of its time, warm up what is measured after it.
const WARM_UP_SHARE: u32 = 10;

/// What is about to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Calls in flight at once.
    pub(crate) concurrency: usize,
    /// Calls that are made at most, those of the warm-up included.
    pub(crate) calls: u64,
    /// Time that the calls may take.
    pub(crate) duration: Duration,
    /// Time that one call may take.
    pub(crate) timeout: Duration,
}

/// Something to load a server with.
#[async_trait]
pub(crate) trait Workload: Send + Sync {
    /// Brings the server to where `plan.calls` calls can be made; not measured.
    ///
    /// # Errors
    /// Any [`Failure`]; the run does not take place then.
    async fn prepare(&self, target: &Target, plan: &Plan) -> Result<Arc<dyn Calls>, Failure>;
}

/// The calls of one run.
#[async_trait]
pub(crate) trait Calls: Send + Sync {
    /// Makes call number `index`, checks its answer, and says how many bytes of blobs it moved.
    ///
    /// # Errors
    /// Any [`Failure`]: it is counted, and the run goes on.
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure>;

    /// What else is worth saying, after the run.
    fn remark(&self) -> Option<String> {
        None
    }
}

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Latencies of the calls that were answered well.
    pub(crate) latency: Histogram,
    /// From the first call to the last answer.
    pub(crate) wall: Duration,
    /// Bytes of blobs moved by the calls that were answered well.
    pub(crate) bytes: u64,
    /// What went wrong, the warm-up included.
    pub(crate) failures: Failures,
    /// CPU time of the server, if its process is known.
    pub(crate) server: Option<CpuUsed>,
    /// CPU time of the other node, if there is one and its process is known.
    pub(crate) through: Option<CpuUsed>,
    /// CPU time of all processes that have a part in the work, too, if there are any.
    pub(crate) also: Option<Duration>,
    /// CPU time of this process.
    pub(crate) client: Duration,
    /// CPU time of the whole machine.
    pub(crate) machine: Duration,
    /// What the workload had to say.
    pub(crate) remark: Option<String>,
}

/// Readings before and after a run.
struct Clocks {
    at: Instant,
    server: Option<Cpu>,
    through: Option<Cpu>,
    also: Vec<Cpu>,
    client: Duration,
    machine: Duration,
}

impl Clocks {
    fn read(target: &Target) -> anyhow::Result<Self> {
        let through = target.through.as_ref().and_then(|through| through.pid);
        Ok(Self {
            server: target.pid.map(Cpu::of_tree).transpose()?,
            through: through.map(Cpu::of_tree).transpose()?,
            also: target.also.iter().map(|&pid| Cpu::of_tree(pid)).collect::<Result<_, _>>()?,
            client: own_cpu()?,
            machine: machine_busy()?,
            at: Instant::now(),
        })
    }
}

/// Prepares and makes one run. What fails before the first call is a failure of the run, too.
///
/// # Errors
/// When `/proc` cannot be read, say because the server is gone.
pub(crate) async fn run(
    target: &Arc<Target>,
    workload: &dyn Workload,
    plan: Plan,
) -> anyhow::Result<Sample> {
    let mut sample = Sample::default();
    let calls = match workload.prepare(target, &plan).await {
        Ok(calls) => calls,
        Err(failure) => {
            sample.failures.add(&failure);
            return Ok(sample);
        }
    };
    let next = Arc::new(AtomicU64::new(0));
    let share = u64::from(WARM_UP_SHARE);
    let warm_up = Plan {
        // Whole rounds, so that calls that belong together stay together.
        calls: plan.calls / share / plan.concurrency as u64 * plan.concurrency as u64,
        duration: plan.duration / WARM_UP_SHARE,
        ..plan
    };
    let warm = callers(target, &calls, &next, warm_up).await;
    // Start again at a whole round: nobody takes the numbers that the warm-up left.
    let round = plan.concurrency as u64;
    next.store(
        next.load(Ordering::Relaxed).min(warm_up.calls).next_multiple_of(round),
        Ordering::Relaxed,
    );

    let before = Clocks::read(target)?;
    let measured = callers(target, &calls, &next, plan).await;
    let wall = before.at.elapsed();
    let after = Clocks::read(target)?;

    sample.failures.merge(&warm.failures);
    sample.failures.merge(&measured.failures);
    sample.latency = measured.latency;
    sample.bytes = measured.bytes;
    sample.wall = wall;
    let used = |(after, before): (Cpu, Cpu)| after.since(before);
    sample.server = after.server.zip(before.server).map(used);
    sample.through = after.through.zip(before.through).map(used);
    sample.also =
        after.also.into_iter().zip(before.also).map(used).map(CpuUsed::total).reduce(Add::add);
    sample.client = after.client.saturating_sub(before.client);
    sample.machine = after.machine.saturating_sub(before.machine);
    sample.remark = calls.remark();
    Ok(sample)
}

/// What callers bring home.
#[derive(Default)]
struct Tally {
    latency: Histogram,
    bytes: u64,
    failures: Failures,
}

/// Runs `plan.concurrency` callers until the plan's calls or time are used up.
async fn callers(
    target: &Arc<Target>,
    calls: &Arc<dyn Calls>,
    next: &Arc<AtomicU64>,
    plan: Plan,
) -> Tally {
    let mut all = JoinSet::new();
    let end = Instant::now() + plan.duration;
    for _ in 0..plan.concurrency {
        all.spawn(caller(Arc::clone(target), Arc::clone(calls), Arc::clone(next), plan, end));
    }
    let mut total = Tally::default();
    while let Some(joined) = all.join_next().await {
        match joined {
            Ok(tally) => {
                total.latency.merge(&tally.latency);
                total.bytes += tally.bytes;
                total.failures.merge(&tally.failures);
            }
            Err(error) => total.failures.add(&Failure::wrong(format!("a caller ended: {error}"))),
        }
    }
    total
}

async fn caller(
    target: Arc<Target>,
    calls: Arc<dyn Calls>,
    next: Arc<AtomicU64>,
    plan: Plan,
    end: Instant,
) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < end {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= plan.calls {
            break;
        }
        let start = Instant::now();
        let answer = tokio::time::timeout(plan.timeout, calls.call(&target, index)).await;
        match answer.unwrap_or(Err(Failure::Late(plan.timeout.as_secs()))) {
            Ok(bytes) => {
                tally.latency.add(start.elapsed());
                tally.bytes += bytes;
            }
            Err(failure) => tally.failures.add(&failure),
        }
    }
    tally
}
