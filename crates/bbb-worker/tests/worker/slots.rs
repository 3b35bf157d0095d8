//! A worker's slots on a real scheduler.

use std::{sync::Arc, time::Duration};

use bbb_lifecycle::TaskGroup;
use bbb_reapi::proto::reapi;
use bbb_sandbox::Mode;
use bbb_scheduler::{
    ActionKey, Dispatch, End, Platform, Scheduler, Stage, Submission, Watch, WorkerOffer,
};
use bbb_worker::Slots;
use prost::Message as _;

use crate::rig::{Rig, Tree, command};

struct Pool {
    rig: Rig,
    scheduler: Arc<Scheduler>,
    tasks: TaskGroup,
}

impl Pool {
    async fn new(slots: u32) -> Self {
        let rig = Rig::new(Mode::Namespaces).await;
        let scheduler = Scheduler::start(&rig.tasks, Default::default());
        let offer = WorkerOffer { name: "worker-1".into(), slots, platform: Platform::default() };
        let tasks = TaskGroup::new("slots");
        Slots::new(offer, Arc::clone(&scheduler) as _, Arc::clone(&rig.local) as _).start(&tasks);
        Self { rig, scheduler, tasks }
    }

    async fn submit(&self, script: &str) -> Watch {
        let action = self.rig.action(Tree::default(), &command(script, &[]), |_| {}).await;
        let key = ActionKey { instance: Default::default(), action };
        let submission = Submission {
            key,
            mergeable: true,
            requirement: Platform::default(),
            timeout: Duration::from_secs(60),
            priority: 0,
            invocation: String::new(),
        };
        self.scheduler.submit(submission).await.unwrap()
    }
}

async fn end(watch: &mut Watch) -> End {
    let wait = async {
        let mut state = watch.current();
        loop {
            if let Stage::Completed { end, .. } = &state.stage {
                return end.clone();
            }
            state = watch.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap()
}

fn exit_code(end: &End) -> i32 {
    let End::Decided(bytes) = end else { panic!("{end:?}") };
    reapi::ExecuteResponse::decode(bytes.clone()).unwrap().result.unwrap().exit_code
}

#[tokio::test]
async fn tasks_come_and_go() {
    let pool = Pool::new(2).await;
    let mut watches = Vec::new();
    for code in 0..6 {
        watches.push(pool.submit(&format!("exit {code}")).await);
    }
    for (code, mut watch) in (0..).zip(watches) {
        assert_eq!(exit_code(&end(&mut watch).await), code);
    }
}

#[tokio::test]
async fn what_runs_is_done_when_the_worker_stops_and_what_is_cancelled_is_not() {
    let pool = Pool::new(2).await;
    let running = |watch: &mut Watch| matches!(watch.current().stage, Stage::Executing { .. });
    let mut cancelled = pool.submit("sleep 1000").await;
    let mut last = pool.submit("sleep 1").await;
    while !running(&mut cancelled) || !running(&mut last) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let id = cancelled.current().id;
    pool.scheduler.cancel(id).await.unwrap();
    assert!(matches!(end(&mut cancelled).await, End::Failed(_)));
    assert_eq!(pool.tasks.shut_down(Duration::from_secs(60)).await, 0);
    assert_eq!(exit_code(&end(&mut last).await), 0);
    pool.rig.is_clean().await;
}
