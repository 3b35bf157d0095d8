use bbb_digest::{Digest, Function, InstanceName};
use bytes::Bytes;

use super::*;
use crate::{ActionKey, End, Failure, Known, Lease, Outcome, Progress, Task};

fn submission(name: &str) -> Submission {
    Submission::of(ActionKey {
        instance: InstanceName::default(),
        action: Digest::of(Function::Sha256, name.as_bytes()),
    })
}

fn offer(slots: u32) -> WorkerOffer {
    WorkerOffer::of("worker", slots)
}

fn start() -> (TaskGroup, Arc<Scheduler>) {
    let group = TaskGroup::new("test");
    let scheduler = Scheduler::start(&group, Limits::default());
    (group, scheduler)
}

async fn end(watch: &mut Watch) -> End {
    let mut state = watch.current();
    loop {
        if let Stage::Completed { end, .. } = &state.stage {
            return end.clone();
        }
        state = watch.changed().await.unwrap();
    }
}

/// The task that the scheduler grants next.
async fn granted(link: &mut WorkerLink) -> (Lease, Task) {
    match link.order().await {
        Some(ToWorker::Run(lease, task)) => (lease, *task),
        other => panic!("{other:?}"),
    }
}

/// Runs all that comes, at once.
async fn work(mut link: WorkerLink) {
    while let Some(order) = link.order().await {
        if let ToWorker::Run(lease, task) = order {
            let outcome = Outcome::Decided(Bytes::from(task.submission.key.action.to_string()));
            link.report(FromWorker::Progress(lease, Progress::Running));
            link.report(FromWorker::Done(lease, outcome));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn work_is_done_and_stays_known() {
    let (group, scheduler) = start();
    let link = scheduler.attach(offer(2), Vec::new()).await.unwrap();
    group.spawn("worker", work(link));
    let mut watch = scheduler.submit(submission("a")).await.unwrap();
    let digest = submission("a").key.action.to_string();
    assert_eq!(end(&mut watch).await, End::Decided(Bytes::from(digest)));
    let id = watch.current().id;
    let mut again = scheduler.find(id).await.unwrap().unwrap();
    assert!(again.current().stage.is_completed());
    let filter = Filter { instance: InstanceName::default(), stage: Some(StageKind::Completed) };
    let listing = scheduler.list(filter, Page { after: None, size: 10 }).await.unwrap();
    assert_eq!(listing.operations.len(), 1);
    let other = Filter { instance: "other".parse().unwrap(), stage: None };
    let listing = scheduler.list(other, Page { after: None, size: 10 }).await.unwrap();
    assert!(listing.operations.is_empty() && listing.next.is_none());
    scheduler.forget(id).await.unwrap();
    assert!(scheduler.find(id).await.unwrap().is_none());
    assert_eq!(group.shut_down(Duration::from_secs(5)).await, 0);
    assert_eq!(scheduler.find(id).await.unwrap_err(), DispatchError::Stopped);
}

#[tokio::test(start_paused = true)]
async fn pages_cover_the_list() {
    let (_group, scheduler) = start();
    let mut watches = Vec::new();
    for index in 0..25 {
        watches.push(scheduler.submit(submission(&index.to_string())).await.unwrap());
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let filter = Filter { instance: InstanceName::default(), stage: None };
        let listing = scheduler.list(filter, Page { after, size: 10 }).await.unwrap();
        seen.extend(listing.operations.iter().map(|state| state.id));
        after = listing.next;
        if after.is_none() {
            break;
        }
    }
    let mut expected: Vec<_> = watches.iter_mut().map(|watch| watch.current().id).collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn equal_work_is_shared() {
    let (group, scheduler) = start();
    let mut first = scheduler.submit(submission("a")).await.unwrap();
    let mut second = scheduler.submit(submission("a")).await.unwrap();
    assert_eq!(first.current().id, second.current().id);
    let unshared = Submission { mergeable: false, ..submission("a") };
    let mut third = scheduler.submit(unshared).await.unwrap();
    assert_ne!(first.current().id, third.current().id);
    group.spawn("worker", work(scheduler.attach(offer(1), Vec::new()).await.unwrap()));
    assert_eq!(end(&mut first).await, end(&mut second).await);
    end(&mut third).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_goes_gives_its_work_back() {
    let (group, scheduler) = start();
    let mut watch = scheduler.submit(submission("a")).await.unwrap();
    let mut link = scheduler.attach(offer(1), Vec::new()).await.unwrap();
    granted(&mut link).await;
    drop(link);
    group.spawn("worker", work(scheduler.attach(offer(1), Vec::new()).await.unwrap()));
    assert!(matches!(end(&mut watch).await, End::Decided(_)));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_not_polled_is_lost() {
    let (_group, scheduler) = start();
    let mut watch = scheduler.submit(submission("a")).await.unwrap();
    let mut deaf = scheduler.attach(offer(1), Vec::new()).await.unwrap();
    let (lease, task) = granted(&mut deaf).await;
    let mut other = scheduler.attach(offer(1), Vec::new()).await.unwrap();
    let (later_lease, taken) = granted(&mut other).await;
    assert_eq!((taken.operation, taken.attempt), (task.operation, 2));
    // The old lease no longer counts.
    let done = |text| Outcome::Decided(Bytes::from_static(text));
    deaf.report(FromWorker::Done(lease, done(b"late")));
    other.report(FromWorker::Done(later_lease, done(b"good")));
    assert_eq!(end(&mut watch).await, End::Decided(Bytes::from_static(b"good")));
    assert!(deaf.order().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn cancelling_stops_the_task() {
    let (group, scheduler) = start();
    let mut watch = scheduler.submit(submission("a")).await.unwrap();
    let mut link = scheduler.attach(offer(1), Vec::new()).await.unwrap();
    let (lease, _) = granted(&mut link).await;
    group.spawn("worker", async move {
        assert_eq!(link.order().await, Some(ToWorker::Revoke(lease)));
        link.report(FromWorker::Done(lease, Outcome::Failed("stopped".into())));
        work(link).await;
    });
    let id = watch.current().id;
    scheduler.cancel(id).await.unwrap();
    assert!(matches!(end(&mut watch).await, End::Failed(Failure::Cancelled(_))));
    let mut next = scheduler.submit(submission("b")).await.unwrap();
    assert!(matches!(end(&mut next).await, End::Decided(_)));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_watches_is_cancelled_after_a_minute() {
    let (_group, scheduler) = start();
    let mut link = scheduler.attach(offer(1), Vec::new()).await.unwrap();
    let mut watch = scheduler.submit(submission("a")).await.unwrap();
    let id = watch.current().id;
    let (lease, _) = granted(&mut link).await;
    drop(watch);
    let began = Instant::now();
    assert_eq!(link.order().await, Some(ToWorker::Revoke(lease)));
    let after = began.elapsed();
    assert!(after >= Duration::from_secs(60) && after < Duration::from_secs(63), "{after:?}");
    let mut found = scheduler.find(id).await.unwrap().unwrap();
    assert!(matches!(end(&mut found).await, End::Failed(Failure::Cancelled(_))));
}

#[tokio::test(start_paused = true)]
async fn what_no_worker_can_run_fails_within_seconds() {
    let (group, scheduler) = start();
    group.spawn("worker", work(scheduler.attach(offer(1), Vec::new()).await.unwrap()));
    let requirement = [("Arch".to_owned(), "sparc".to_owned())].into_iter().collect();
    let began = Instant::now();
    let mut watch = scheduler.submit(Submission { requirement, ..submission("a") }).await.unwrap();
    match end(&mut watch).await {
        End::Failed(Failure::Unsatisfiable(why)) => {
            assert!(why.contains("worker") && why.contains("Arch"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_that_stops_ends_links_and_watches() {
    let (group, scheduler) = start();
    let mut watch = scheduler.submit(submission("a")).await.unwrap();
    let mut link = scheduler.attach(offer(1), Vec::new()).await.unwrap();
    assert_eq!(granted(&mut link).await.1.operation, watch.current().id);
    assert_eq!(group.shut_down(Duration::from_secs(5)).await, 0);
    assert!(link.order().await.is_none());
    while let Some(state) = watch.changed().await {
        assert!(!state.stage.is_completed(), "that is not an end");
    }
}

#[tokio::test(start_paused = true)]
async fn each_name_shows_the_operation_under_that_name() {
    let (group, scheduler) = start();
    let named = |id| {
        let queued_at = std::time::SystemTime::now();
        let known = Known { id: OperationId(id), queued_at, held_by: None, attempts: Vec::new() };
        Submission { known: Some(Box::new(known)), ..submission("a") }
    };
    let mut first = scheduler.submit(named(1)).await.unwrap();
    let mut second = scheduler.submit(named(2)).await.unwrap();
    let mut again = scheduler.submit(named(2)).await.unwrap();
    group.spawn("worker", work(scheduler.attach(offer(1), Vec::new()).await.unwrap()));
    for (watch, id) in [(&mut first, 1), (&mut second, 2), (&mut again, 2)] {
        assert_eq!(watch.current().id, OperationId(id));
        assert!(matches!(end(watch).await, End::Decided(_)));
        assert_eq!(watch.current().id, OperationId(id));
    }
    let snapshot = scheduler.snapshot().await.unwrap();
    assert_eq!((snapshot.queued, snapshot.executing, snapshot.completed), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_worker_hears_each_second_that_the_scheduler_lives() {
    let mut driver = Driver::new(Limits::default(), Arc::new(OwnIds));
    let _link = driver.attach(driver.now(), offer(1), Vec::new()).unwrap();
    let (told, mut heard) = mpsc::channel(8);
    let worker = *driver.orders.keys().next().unwrap();
    driver.orders.insert(worker, told);
    let (_inbox, requests) = mpsc::channel(1);
    let group = TaskGroup::new("test");
    group.spawn("scheduler", driver.run(requests, group.stop()));
    let began = Instant::now();
    for second in 1..=3 {
        assert_eq!(heard.recv().await, Some(ToWorker::Alive));
        assert_eq!(began.elapsed().as_secs(), second);
    }
}
