//! The driver alone: actions that do nothing, one at a time and 64 at once, from submission to the end that
//! a client sees. Prints CPU time and latency of each.
//!
//! `cargo run --release -p bbb-scheduler --example latency`

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_lifecycle::TaskGroup;
use bbb_scheduler::{
    ActionKey, Dispatch, DispatchError, FromWorker, Outcome, Progress, Scheduler, Submission,
    ToWorker, WorkerLink, WorkerOffer, core::Limits,
};
use bytes::Bytes;
use tokio::sync::mpsc;

const ACTIONS: u64 = 20_000;

#[tokio::main]
async fn main() -> Result<(), DispatchError> {
    let group = TaskGroup::new("example");
    let scheduler = Scheduler::start(&group, Limits::default());
    let offer = WorkerOffer::of("w", 64);
    group.spawn("worker", work(scheduler.attach(offer, Vec::new()).await?));
    for clients in [1, 64] {
        let start = cpu_time();
        let (tell, mut told) = mpsc::channel(64);
        for client in 0..clients {
            let (scheduler, tell) = (Arc::clone(&scheduler), tell.clone());
            group.spawn("client", async move {
                let mut spans = Vec::new();
                for action in 0..ACTIONS / clients {
                    let began = Instant::now();
                    run(&*scheduler, client << 32 | action).await;
                    spans.push(began.elapsed());
                }
                let _ = tell.send(spans).await;
            });
        }
        drop(tell);
        let mut spans = Vec::new();
        while let Some(more) = told.recv().await {
            spans.extend(more);
        }
        let each = (cpu_time() - start) / ACTIONS as u32;
        spans.sort();
        let p50 = spans.get(spans.len() / 2).copied().unwrap_or_default();
        println!("{clients} at once: {each:?} of CPU time each, p50 {p50:?}");
    }
    group.shut_down(Duration::from_secs(1)).await;
    Ok(())
}

async fn run(scheduler: &dyn Dispatch, number: u64) {
    let submission = Submission::of(ActionKey {
        instance: InstanceName::default(),
        action: Digest::of(Function::Sha256, &number.to_be_bytes()),
    });
    let Ok(mut watch) = scheduler.submit(submission).await else { return };
    let mut state = watch.current();
    while !state.stage.is_completed() {
        match watch.changed().await {
            Some(next) => state = next,
            None => return,
        }
    }
}

async fn work(mut link: WorkerLink) {
    while let Some(order) = link.order().await {
        if let ToWorker::Run(lease, _) = order {
            link.report(FromWorker::Progress(lease, Progress::Running));
            link.report(FromWorker::Progress(lease, Progress::Uploading));
            link.report(FromWorker::Done(lease, Outcome::Decided(Bytes::from_static(b"done"))));
        }
    }
}

/// The time that this process spent on CPUs, whatever else the machine does.
fn cpu_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
