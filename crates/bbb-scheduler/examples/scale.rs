//! The core alone at the scale of a large cluster: 10,000 workers, a million queued actions of 100,000
//! builds, with demands, inputs and prefetched tasks. Prints dispatches in a second of CPU time, how long one takes, and
//! the memory of a queued action; first for a tenth of everything, to see how they grow.
//!
//! `cargo run --release -p bbb-scheduler --example scale`

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_scheduler::{
    ActionKey, Demand, FromWorker, InputPart, Lease, OperationId, Outcome, Platform, Progress,
    Staged, Submission, ToWorker, WorkerOffer,
    core::{Core, Effect, Limits, Now, WorkerId},
};
use bytes::Bytes;

const WORKERS: u64 = 10_000;
const SLOTS: u32 = 4;
const PREFETCH: u32 = 1;
const ACTIONS: u64 = 1_000_000;
const BUILDS: u64 = 100_000;

/// A tenth of everything, to see how time grows with size.
const SMALLER: u64 = 10;

fn main() {
    println!("a tenth:");
    run(WORKERS / SMALLER, ACTIONS / SMALLER, BUILDS / SMALLER);
    println!("all:");
    run(WORKERS, ACTIONS, BUILDS);
}

fn run(workers: u64, actions: u64, builds: u64) {
    let began = Instant::now();
    let now = || Now { since_start: began.elapsed(), wall: SystemTime::now() };
    let mut core = Core::new(Limits::default());
    let mut held = VecDeque::new();

    let before = resident_bytes();
    let start = cpu_time();
    for action in 0..actions {
        let submission = submission(action, builds);
        if let Err(full) = core.submit(now(), OperationId(action.into()), submission) {
            println!("refused: {full:?}");
        }
        // What is shown is the driver's to keep.
        drop(core.take_effects());
    }
    let each = (cpu_time() - start) / actions as u32;
    let bytes = resident_bytes().saturating_sub(before) / actions;
    println!("submit: {each:?} each; {bytes} bytes of memory for each queued action");

    let start = cpu_time();
    for worker in 0..workers {
        let offer = WorkerOffer {
            platform: platform(worker % 2),
            prefetch: PREFETCH,
            capacity: Demand { millicpus: 1000 * u64::from(SLOTS), memory_bytes: 16 << 30 },
            ..WorkerOffer::of(format!("worker-{worker}"), SLOTS)
        };
        if let Err(full) = core.join_worker(now(), WorkerId(worker), offer, Vec::new()) {
            println!("refused: {full:?}");
        }
        take(&mut core, &mut held);
    }
    let slots = workers * u64::from(SLOTS);
    println!("attach: {:?} for {workers} workers with {slots} slots", cpu_time() - start);

    // While a queue is there, and when it has run dry and work is called back and forth.
    let mut spans = Vec::with_capacity(actions as usize);
    let start = cpu_time();
    while let Some((worker, lease)) = held.pop_front() {
        let one = Instant::now();
        core.hear(now(), worker, FromWorker::Progress(lease, Progress::Running));
        let staged = Staged { needed_bytes: 1 << 20, fetched_bytes: 0 };
        core.hear(now(), worker, FromWorker::Staged(lease, staged));
        let outcome = Outcome::Decided(Bytes::from_static(b"done"));
        core.hear(now(), worker, FromWorker::Done(lease, outcome));
        take(&mut core, &mut held);
        spans.push(one.elapsed());
        if spans.len() % 100_000 == 0 {
            for worker in 0..workers {
                core.hear(now(), WorkerId(worker), FromWorker::Alive);
            }
            core.tick(now());
            take(&mut core, &mut held);
        }
    }
    let rate = spans.len() as f64 / (cpu_time() - start).as_secs_f64();
    spans.sort();
    let at =
        |part: f64| spans.get((spans.len() as f64 * part) as usize).copied().unwrap_or_default();
    println!("done and dispatched: {} tasks, {rate:.0} in a second of CPU time", spans.len());
    println!("one: p50 {:?}, p99 {:?}, p99.99 {:?}", at(0.5), at(0.99), at(0.9999));
    println!("left: {:?}", core.counts());

    placed(&mut core, now, workers);
}

/// Work that comes while slots are free, each action near to some worker.
fn placed(core: &mut Core, now: impl Fn() -> Now, workers: u64) {
    let actions = 20 * workers;
    let mut held = VecDeque::new();
    let start = cpu_time();
    for action in 0..actions {
        let id = OperationId(u128::from(action) + (1 << 64));
        let submission = submission(action + (1 << 40), 100);
        if let Err(full) = core.submit(now(), id, submission) {
            println!("refused: {full:?}");
        }
        take(core, &mut held);
        if action >= 2 * workers
            && let Some((worker, lease)) = held.pop_front()
        {
            let outcome = Outcome::Decided(Bytes::from_static(b"done"));
            core.hear(now(), worker, FromWorker::Done(lease, outcome));
        }
        if action % 50_000 == 0 {
            for worker in 0..workers {
                core.hear(now(), WorkerId(worker), FromWorker::Alive);
            }
        }
    }
    let each = (cpu_time() - start) / actions as u32;
    println!("submitted while half of all slots are free: {each:?} each, and done");
}

/// Does what the core says, as far as workers are concerned.
fn take(core: &mut Core, held: &mut VecDeque<(WorkerId, Lease)>) {
    for effect in core.take_effects() {
        if let Effect::Tell(worker, ToWorker::Run(lease, _)) = effect {
            held.push_back((worker, lease));
        }
    }
}

fn platform(kind: u64) -> Platform {
    let arch = if kind == 0 { "x86_64" } else { "aarch64" };
    [("Arch", arch), ("OSFamily", "linux")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect()
}

fn submission(action: u64, builds: u64) -> Submission {
    let build = action.wrapping_mul(0x9e37_79b9_7f4a_7c15) % builds;
    // A part that all share, one that its build has, and one that few others have.
    let parts = [1, (1 << 32) | build, (2 << 32) | (action / 8)];
    Submission {
        requirement: platform(action % 2),
        demand: Demand {
            millicpus: 1000 * (1 + u64::from(action.is_multiple_of(16))),
            memory_bytes: 0,
        },
        inputs: parts.map(|key| InputPart { key, bytes: 1 << 20 }).into(),
        timeout: Duration::from_secs(600),
        priority: i32::try_from(action % 3).unwrap_or_default(),
        invocation: format!("9b1c6b1e-8a5e-4a3c-8f7e-{build:012}").into(),
        ..Submission::of(ActionKey {
            instance: InstanceName::default(),
            action: Digest::of(Function::Sha256, &action.to_be_bytes()),
        })
    }
}

/// The time that this process spent on a CPU, whatever else the machine does.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}
