//! A client that runs actions of known length, and measures what each took beyond it.
//!
//! [`load`] keeps some of them under way, each over connections of its own, and holds on to its operation as builds do: after a
//! connection broke it waits for the operation by its name, and executes again only when nobody knows that. [`cost`] holds what
//! it noted against the moments at which something was broken. [`start`], [`wait`], [`cancel`] and [`stage`] are the single calls;
//! [`run`] runs any command, and says what it used.
//! What a cluster is it refuses to know: it has one address.

mod client;
mod cost;
mod note;
mod words;

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bbb_lifecycle::Signals;
use futures::future;
use tokio::time;
use tonic::{Code, Status};

use client::{Client, End, Wanted, Work};

pub use cost::{Fault, costs};
pub use note::Note;
pub use words::{Words, run};

/// Who is asked, and for what.
#[derive(clap::Args, Clone, Debug)]
pub struct Asked {
    /// A node or what stands before many, as grpc://127.0.0.1:1234.
    #[arg(long)]
    pub server: String,
    /// The actions' salt: the same ones come of the same seed.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How long an action sleeps.
    #[arg(long = "length_ms", default_value_t = 2000)]
    pub length_ms: u64,
    /// How many bytes it writes before it sleeps.
    #[arg(long = "output_bytes", default_value_t = 6)]
    pub output_bytes: u64,
    /// What it asks of a worker, as NAME=VALUE.
    #[arg(long = "property")]
    pub properties: Vec<String>,
    /// How long an action may take, with all that is done again, before it counts as failed.
    #[arg(long = "patience_s", default_value_t = 60)]
    pub patience_s: u64,
}

impl Asked {
    fn wanted(&self, index: u64) -> anyhow::Result<Wanted> {
        let Self { seed, length_ms, output_bytes, .. } = *self;
        let work = Work::Sleep { seed, index, length_ms, output_bytes };
        Ok(Wanted { work, properties: pairs(&self.properties)? })
    }
}

fn pairs(words: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |word: &String| {
        let (name, value) = word.split_once('=').context("a property is NAME=VALUE")?;
        Ok((name.to_owned(), value.to_owned()))
    };
    words.iter().map(pair).collect()
}

/// How much is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Amount {
    /// Actions under way at once.
    #[arg(long, default_value_t = 3)]
    pub concurrency: u64,
    /// Ends after so many; without it, at SIGTERM. What is under way is waited for.
    #[arg(long)]
    pub count: Option<u64>,
    /// Begin no action after this file is there.
    #[arg(long)]
    pub until: Option<std::path::PathBuf>,
}

/// Runs actions, prints a [`Note`] of each as it ends, and says how many there were and how many failed.
///
/// # Errors
/// When what is asked for cannot be understood.
pub async fn load(asked: &Asked, amount: &Amount) -> anyhow::Result<(u64, u64)> {
    let (next, failed, ending) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    asked.wanted(0)?;
    let mut signals = Signals::listen()?;
    let more = || {
        let told = ending.load(Ordering::Relaxed)
            || amount.until.as_ref().is_some_and(|file| file.exists());
        let index = next.fetch_add(1, Ordering::Relaxed);
        (!told && amount.count.is_none_or(|count| index < count)).then_some(index)
    };
    let lane = async || {
        let mut ran = 0;
        while let Some(index) = more() {
            let note = one(asked, index).await;
            ran += 1;
            if !note.is_good() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            writeln!(std::io::stdout(), "{note}")?;
        }
        anyhow::Ok(ran)
    };
    let lanes = future::try_join_all((0..amount.concurrency).map(|_| lane()));
    tokio::pin!(lanes);
    let ran = loop {
        tokio::select! {
            ran = &mut lanes => break ran?,
            _signal = signals.next() => ending.store(true, Ordering::Relaxed),
        }
    };
    Ok((ran.into_iter().sum(), failed.load(Ordering::Relaxed)))
}

/// How long a client waits before it tries again.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs one action to its end, whatever happens to its connections.
async fn one(asked: &Asked, index: u64) -> Note {
    let mut note = Note::begin(index);
    let deadline = Duration::from_secs(asked.patience_s);
    let ended = time::timeout(deadline, persist(asked, index, &mut note)).await;
    match ended {
        Ok(Ok(end)) => note.end(&end),
        Ok(Err(error)) => note.fail(&format!("{error:#}")),
        Err(_) => note.fail("it did not end in time"),
    }
    note
}

async fn persist(asked: &Asked, index: u64, note: &mut Note) -> anyhow::Result<End> {
    let wanted = asked.wanted(index)?;
    let mut name = None;
    loop {
        let client = Client::new(&asked.server)?;
        let ended = match &name {
            None => {
                note.executed += 1;
                client.execute(&wanted, &mut name).await
            }
            Some(known) => {
                note.waited += 1;
                let known: Arc<str> = Arc::clone(known);
                client.wait(&known, &mut name).await
            }
        };
        match ended {
            Ok(end) => return Ok(end),
            // Nobody knows the operation.
            Err(status) if status.code() == Code::NotFound && name.is_some() => name = None,
            Err(status) if is_of_the_way(&status) => time::sleep(PAUSE).await,
            Err(status) => anyhow::bail!("{:?}: {}", status.code(), status.message()),
        }
    }
}

/// Whether it says something of the way to the server, rather than of what was asked for.
fn is_of_the_way(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted
    )
}

/// Executes an action and leaves it: says its operation's name as soon as a worker has it.
///
/// # Errors
/// When the server does not take it, or it ends before.
pub async fn start(asked: &Asked) -> anyhow::Result<Arc<str>> {
    let client = Client::new(&asked.server)?;
    let patience = Duration::from_secs(asked.patience_s);
    time::timeout(patience, client.begin(&asked.wanted(0)?)).await.context("no worker took it")?
}

/// Waits for an operation, by its name; says what came of it, for people.
///
/// # Errors
/// When the server does not know it, or the connection breaks.
pub async fn wait(server: &str, name: &str) -> anyhow::Result<String> {
    let began = Instant::now();
    let end = Client::new(server)?.wait(name, &mut None).await?;
    let mut note = Note::begin(0);
    note.end(&end);
    Ok(format!("{note} after={:.1}", began.elapsed().as_secs_f64()))
}

/// Cancels an operation.
///
/// # Errors
/// When the server does not know it, or the connection breaks.
pub async fn cancel(server: &str, name: &str) -> anyhow::Result<()> {
    Ok(Client::new(server)?.cancel(name).await?)
}

/// Where an operation stands: `QUEUED`, `EXECUTING`, `COMPLETED`; where it waits is said too.
///
/// # Errors
/// When the server does not know it, or the connection breaks.
pub async fn stage(server: &str, name: &str) -> anyhow::Result<String> {
    Ok(Client::new(server)?.stage(name).await?)
}
