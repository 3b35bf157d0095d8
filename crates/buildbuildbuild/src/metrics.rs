//! The page `/metrics`: how much work there is, in the text format of Prometheus (version 0.0.4).
//!
//! What it shows is described in `docs/metrics.md`.

use std::{fmt::Write as _, time::Duration};

use axum::{Router, http::header, response::IntoResponse, routing::get};
use bbb_scheduler::{Platform, PoolState, Snapshot};

use crate::work::{OwnWork, Work};

/// How many pools are shown, those with the longest queues. Series cost whoever collects them.
const MAX_POOLS: usize = 50;

/// The page at its path, for a node with so many slots.
pub(crate) fn routes(work: Work, slots: u64) -> Router {
    let page = move || {
        let work = work.clone();
        async move {
            let (own, scheduled) = (work.own().await, work.scheduled_here().await);
            let text = page(slots, own, scheduled.as_ref());
            let content_type = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
    };
    Router::new().route("/metrics", get(page))
}

/// Lines of the text format.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn about(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.about(name, "gauge", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.about(name, "counter", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn per_pool(
        &mut self,
        name: &str,
        help: &str,
        pools: &[PoolState],
        value: impl Fn(&PoolState) -> f64,
    ) {
        self.about(name, "gauge", help);
        for pool in pools {
            let (label, value) = (label(pool), value(pool));
            let _ = writeln!(self.0, "{name}{{pool=\"{label}\"}} {value}");
        }
    }
}

fn page(slots: u64, own: OwnWork, scheduled: Option<&Snapshot>) -> String {
    let mut lines = Lines::default();
    lines.gauge("buildbuildbuild_slots", "Slots of this node.", slots);
    let busy = u64::from(own.busy_slots);
    lines.gauge("buildbuildbuild_busy_slots", "Slots of this node that are busy.", busy);
    lines.gauge(
        "buildbuildbuild_accepted_operations",
        "Operations that were accepted by this node and have not ended.",
        own.accepted as u64,
    );
    if let Some(snapshot) = scheduled {
        scheduler(&mut lines, snapshot);
    }
    lines.0
}

/// What the node alone shows that schedules.
fn scheduler(lines: &mut Lines, snapshot: &Snapshot) {
    let (queued, executing) = (snapshot.queued as u64, snapshot.executing as u64);
    lines.gauge("buildbuildbuild_queued_operations", "Operations that wait for a slot.", queued);
    let help = "Operations that workers have.";
    lines.gauge("buildbuildbuild_executing_operations", help, executing);
    let help = "Tasks that were given to workers since this node began to schedule.";
    lines.counter("buildbuildbuild_granted_total", help, snapshot.granted as f64);
    let help = "How long those tasks had waited, together.";
    lines.counter("buildbuildbuild_waited_seconds_total", help, snapshot.waited.as_secs_f64());
    let longest = snapshot.pools.iter().map(|pool| pool.oldest_wait).max();
    lines.about(
        "buildbuildbuild_oldest_wait_seconds",
        "gauge",
        "How long the operation has waited that has waited longest.",
    );
    let longest = longest.unwrap_or(Duration::ZERO).as_secs_f64();
    let _ = writeln!(lines.0, "buildbuildbuild_oldest_wait_seconds {longest}");
    let mut pools = snapshot.pools.clone();
    pools.sort_by_key(|pool| std::cmp::Reverse(pool.queued));
    pools.truncate(MAX_POOLS);
    let help = "Operations that wait for a slot, by what they ask for.";
    lines.per_pool("buildbuildbuild_pool_queued_operations", help, &pools, |p| p.queued as f64);
    let help =
        "Slots of workers that can run what is asked for; a worker may count in several pools.";
    lines.per_pool("buildbuildbuild_pool_slots", help, &pools, |pool| pool.slots as f64);
    let help = "How long the operation of a pool has waited that has waited longest.";
    let wait = |pool: &PoolState| pool.oldest_wait.as_secs_f64();
    lines.per_pool("buildbuildbuild_pool_oldest_wait_seconds", help, &pools, wait);
}

/// What a pool asks for, as the value of a label.
fn label(pool: &PoolState) -> String {
    shown(pool).replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// What a pool asks for, for people.
pub(crate) fn shown(pool: &PoolState) -> String {
    let mut parts: Vec<String> = properties(&pool.requirement);
    if pool.demand.millicpus > 0 {
        parts.push(format!("cpus={}", pool.demand.millicpus as f64 / 1000.0));
    }
    if pool.demand.memory_bytes > 0 {
        parts.push(format!("memory={}", pool.demand.memory_bytes));
    }
    parts.join(",")
}

fn properties(platform: &Platform) -> Vec<String> {
    platform.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[cfg(test)]
mod tests {
    use bbb_scheduler::Demand;

    use super::*;

    #[test]
    fn what_belongs_to_the_cluster_is_shown_by_the_scheduling_node_alone() {
        let own = OwnWork { busy_slots: 2, accepted: 3 };
        let elsewhere = page(4, own, None);
        assert!(elsewhere.contains("\nbuildbuildbuild_slots 4\n"), "{elsewhere}");
        assert!(elsewhere.contains("\nbuildbuildbuild_busy_slots 2\n"), "{elsewhere}");
        assert!(elsewhere.contains("\nbuildbuildbuild_accepted_operations 3\n"), "{elsewhere}");
        assert!(!elsewhere.contains("queued") && !elsewhere.contains("total"), "{elsewhere}");
        let pool = PoolState {
            requirement: [("Arch".to_owned(), "a\"b".to_owned())].into_iter().collect(),
            demand: Demand { millicpus: 500, memory_bytes: 0 },
            queued: 7,
            oldest_wait: Duration::from_millis(1500),
            slots: 9,
            ..PoolState::default()
        };
        let snapshot = Snapshot {
            queued: 7,
            granted: 11,
            waited: Duration::from_millis(2500),
            pools: vec![PoolState::default(), pool],
            ..Snapshot::default()
        };
        let here = page(4, own, Some(&snapshot));
        for line in [
            "buildbuildbuild_queued_operations 7",
            "buildbuildbuild_granted_total 11",
            "buildbuildbuild_waited_seconds_total 2.5",
            "buildbuildbuild_oldest_wait_seconds 1.5",
            "buildbuildbuild_pool_queued_operations{pool=\"Arch=a\\\"b,cpus=0.5\"} 7",
            "buildbuildbuild_pool_slots{pool=\"Arch=a\\\"b,cpus=0.5\"} 9",
            "buildbuildbuild_pool_slots{pool=\"\"} 0",
        ] {
            assert!(here.lines().any(|found| found == line), "{line} in {here}");
        }
        // Every line is about a metric whose kind is told before.
        let mut told = Vec::new();
        for line in here.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(kind) => told.push(kind.split(' ').next().unwrap()),
                None if line.starts_with('#') => {}
                None => {
                    let name = line.split(['{', ' ']).next().unwrap();
                    assert_eq!(told.last(), Some(&name), "{here}");
                }
            }
        }
    }
}
