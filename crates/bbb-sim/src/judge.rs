//! Watches over what the cluster promises while it runs.
//!
//! That no action runs twice at once cannot be promised while nodes do not hear each other. What is promised, and checked:
//! of two commands of one action, one ends within [`SLACK`] once, for [`CALM`], all nodes have agreed on who schedules, and
//! neither the two workers' nodes nor the scheduler's were hurt.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bbb_digest::Digest;
use bbb_scheduler::Task;
use tokio::time;

use crate::{
    net::Host,
    world::{World, lock, note},
};

/// After so long without a fault that touches them, nodes hear each other, and have told each other all.
pub(crate) const CALM: Duration = Duration::from_secs(12);

/// For so long two commands of one action may run at once even then: one of them is being killed.
const SLACK: Duration = Duration::from_secs(3);

/// How often it looks.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// Knows which commands run, and which nodes were hurt.
#[derive(Debug)]
pub(crate) struct Judge {
    world: World,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By their numbers.
    commands: BTreeMap<u64, Command>,
    last_command: u64,
    /// How many faults hurt each host now, and when that number last changed.
    hurt: BTreeMap<Host, (u32, Duration)>,
    /// Who schedules as all nodes see it, and since when; none if they do not agree.
    scheduler: Option<((Host, u64), Duration)>,
    tally: Tally,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commands that began.
    pub commands: u64,
    /// Operations that ended well, as clients saw it.
    pub decided: u64,
    /// Results that came from the action cache.
    pub cached: u64,
    /// Operations that were refused after as many attempts as there may be.
    pub refused: u64,
    /// Operations that were refused while no machine was there that offers what they ask for.
    pub unsatisfied: u64,
    /// How often a client had to connect anew.
    pub reconnects: u64,
    /// Operations that nobody knew any more when their client came back.
    pub forgotten: u64,
    /// How often another node became the scheduler of all.
    pub terms: u64,
    /// Faults that were done.
    pub faults: u64,
}

#[derive(Clone, Copy, Debug)]
struct Command {
    action: Digest,
    job: u64,
    host: Host,
    since: Duration,
    told: bool,
}

/// A command that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    judge: Arc<Judge>,
    number: u64,
}

impl Judge {
    pub(crate) fn new(world: &World) -> Arc<Self> {
        let judge = Arc::new(Self { world: world.clone(), state: Mutex::default() });
        let looks = Arc::clone(&judge);
        world.spawn("judge", async move {
            loop {
                time::sleep(LOOKS_EVERY).await;
                looks.look();
            }
        });
        judge
    }

    /// A command begins.
    pub(crate) fn began(self: &Arc<Self>, task: &Task, host: Host, job: u64) -> Running {
        let mut state = lock(&self.state);
        state.last_command += 1;
        state.tally.commands += 1;
        let number = state.last_command;
        let (action, since) = (task.submission.key.action, self.world.now());
        state.commands.insert(number, Command { action, job, host, since, told: false });
        drop(state);
        note!(self.world, "job {job} runs on {host}, attempt {}", task.attempt);
        Running { judge: Arc::clone(self), number }
    }

    /// A fault begins to hurt a host.
    pub(crate) fn hurt(&self, host: Host) {
        let now = self.world.now();
        let mut state = lock(&self.state);
        state.tally.faults += 1;
        let hurt = state.hurt.entry(host).or_default();
        *hurt = (hurt.0 + 1, now);
    }

    /// A fault that hurt a host is over.
    pub(crate) fn healed(&self, host: Host) {
        let now = self.world.now();
        let mut state = lock(&self.state);
        let hurt = state.hurt.entry(host).or_default();
        *hurt = (hurt.0.saturating_sub(1), now);
    }

    /// Whom the nodes take for the scheduler: one, if all agree.
    pub(crate) fn scheduler_is(&self, named: Option<(Host, u64)>) {
        let now = self.world.now();
        let mut state = lock(&self.state);
        if state.scheduler.map(|(named, _)| named) != named {
            state.scheduler = named.map(|named| (named, now));
            state.tally.terms += u64::from(named.is_some());
            drop(state);
            match named {
                Some((host, _)) => note!(self.world, "all take {host} for the scheduler"),
                None => note!(self.world, "nodes do not agree who schedules"),
            }
        }
    }

    pub(crate) fn count(&self, what: impl FnOnce(&mut Tally)) {
        what(&mut lock(&self.state).tally);
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.state).tally
    }

    /// Whether nothing has hurt a host for [`CALM`].
    pub(crate) fn is_calm(&self, host: Host) -> bool {
        let calm = lock(&self.state).calm_since(host);
        calm.is_some_and(|since| self.world.now() >= since + CALM)
    }

    /// How many commands run.
    pub(crate) fn running(&self) -> usize {
        lock(&self.state).commands.len()
    }

    fn look(&self) {
        let now = self.world.now();
        let mut state = lock(&self.state);
        let Some(((scheduler, _), agreed)) = state.scheduler else { return };
        let mut by_action: BTreeMap<Digest, Vec<u64>> = BTreeMap::new();
        for (number, command) in &state.commands {
            by_action.entry(command.action).or_default().push(*number);
        }
        let mut twice = Vec::new();
        for numbers in by_action.values().filter(|numbers| numbers.len() > 1) {
            let commands: Vec<Command> =
                numbers.iter().map(|number| state.commands[number]).collect();
            let began = commands.iter().map(|command| command.since).max().unwrap_or_default();
            let hosts = commands.iter().map(|command| command.host).chain([scheduler]);
            let calm = hosts.map(|host| state.calm_since(host));
            let Some(calm) = calm.into_iter().try_fold(agreed, |a, b| Some(a.max(b?))) else {
                continue;
            };
            let told = commands.iter().any(|command| command.told);
            if !told && now > began.max(calm + CALM) + SLACK {
                let hosts: Vec<Host> = commands.iter().map(|command| command.host).collect();
                twice.push((numbers.clone(), commands[0].job, hosts));
            }
        }
        for number in twice.iter().flat_map(|(numbers, ..)| numbers) {
            if let Some(command) = state.commands.get_mut(number) {
                command.told = true;
            }
        }
        drop(state);
        for (_, job, hosts) in twice {
            self.world.is_wrong(format!("job {job} runs on {hosts:?} at once, in a calm cluster"));
        }
    }
}

impl State {
    /// Since when nothing hurts a host; none if something does.
    fn calm_since(&self, host: Host) -> Option<Duration> {
        match self.hurt.get(&host) {
            None => Some(Duration::ZERO),
            Some((0, since)) => Some(*since),
            Some(_) => None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = lock(&self.judge.state).commands.remove(&self.number);
        if let Some(Command { job, host, .. }) = ended {
            note!(self.judge.world, "job {job} ends on {host}");
        }
    }
}
