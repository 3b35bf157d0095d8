//! The core alone at the scale of a large cluster: 10,000 workers, a million queued actions of 100,000
//! builds. Prints dispatches in a second of CPU time, how long one takes, and the memory of a queued
//! action.
//!
//! `cargo run --release -p bbb-scheduler --example scale`

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_scheduler::{
    ActionKey, FromWorker, Lease, OperationId, Outcome, Platform, Submission, ToWorker,
    WorkerOffer,
    core::{Core, Effect, Limits, Now, WorkerId},
};
use bytes::Bytes;

const WORKERS: u64 = 10_000;
const SLOTS: u32 = 4;
const ACTIONS: u64 = 1_000_000;
const BUILDS: u64 = 100_000;

fn main() {
    let began = Instant::now();
    let now = || Now { since_start: began.elapsed(), wall: SystemTime::now() };
    let mut core = Core::new(Limits::default());
    let mut held = VecDeque::new();

    let before = resident_bytes();
    let start = cpu_time();
    for action in 0..ACTIONS {
        if let Err(full) = core.submit(now(), OperationId(action.into()), submission(action)) {
            println!("refused: {full:?}");
        }
        // What is shown is the driver's to keep.
        drop(core.take_effects());
    }
    let each = (cpu_time() - start) / ACTIONS as u32;
    let bytes = resident_bytes().saturating_sub(before) / ACTIONS;
    println!("submit: {each:?} each; {bytes} bytes of memory for each queued action");

    let start = cpu_time();
    for worker in 0..WORKERS {
        let name = format!("worker-{worker}");
        let offer = WorkerOffer { platform: platform(worker % 2), ..WorkerOffer::of(name, SLOTS) };
        if let Err(full) = core.join_worker(now(), WorkerId(worker), offer, Vec::new()) {
            println!("refused: {full:?}");
        }
        take(&mut core, &mut held);
    }
    let slots = WORKERS * u64::from(SLOTS);
    println!("attach: {:?} for {WORKERS} workers with {slots} slots", cpu_time() - start);

    let mut spans = Vec::with_capacity(ACTIONS as usize);
    let start = cpu_time();
    while let Some((worker, lease)) = held.pop_front() {
        let one = Instant::now();
        let outcome = Outcome::Decided(Bytes::from_static(b"done"));
        core.hear(now(), worker, FromWorker::Done(lease, outcome));
        take(&mut core, &mut held);
        spans.push(one.elapsed());
        if spans.len() % 100_000 == 0 {
            for worker in 0..WORKERS {
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

fn submission(action: u64) -> Submission {
    let build = action.wrapping_mul(0x9e37_79b9_7f4a_7c15) % BUILDS;
    Submission {
        requirement: platform(action % 2),
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
