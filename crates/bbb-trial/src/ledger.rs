//! A client that writes down what a node acknowledged, and holds it to its word.
//!
//! [`write()`] stores blobs and action results, made from a seed, and appends a line to its ledger for each that was acknowledged, or
//! that the node said it has. [`verify()`] asks any node for all that stands in a ledger: none may be missing, each byte must be
//! right. The ledger is a file of lines, `blob SEED STEP INDEX`, `sized SEED STEP BYTES` and `result
//! SEED STEP`.

mod client;
mod goods;

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bbb_digest::{Digest, Function};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tonic::{Code, Status};

use client::{Client, Reading};
use goods::Step;

/// How many failures are told of.
const FAILURES_TOLD: usize = 20;
/// How many digests one FindMissingBlobs asks for.
const ASKED_AT_ONCE: usize = 1000;
/// The first wait before a call is repeated; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// What fits well into one message.
const LARGEST_OF_BATCH_BYTES: u64 = 64 << 10;

/// Who is asked, and how patiently.
#[derive(clap::Args, Clone, Debug)]
pub struct Asked {
    /// A node, as grpc://127.0.0.1:1234.
    #[arg(long)]
    pub server: String,
    /// Its instance.
    #[arg(long, default_value = "")]
    pub instance: String,
    /// The file of what was acknowledged.
    #[arg(long)]
    pub ledger: PathBuf,
    /// Calls under way at once.
    #[arg(long, default_value_t = 8)]
    pub concurrency: usize,
    /// How often a call that ended in UNAVAILABLE is made again, as builds do.
    #[arg(long, default_value_t = 0)]
    pub retries: u32,
    /// Results are of this edition: the same actions with another one have other results.
    #[arg(long, default_value_t = 0)]
    pub edition: u32,
}

/// How much to store.
#[derive(clap::Args, Clone, Debug)]
pub struct Amount {
    /// What is stored is made from it.
    #[arg(long)]
    pub seed: u64,
    /// Steps to take; each stores some blobs, some a result too.
    #[arg(long, default_value_t = u64::MAX)]
    pub steps: u64,
    /// Each step stores one blob of this size instead.
    #[arg(long = "blob_bytes")]
    pub blob_bytes: Option<usize>,
    /// Begin no step after so many seconds.
    #[arg(long, default_value_t = 3600)]
    pub seconds: u64,
    /// Begin no step after a call failed, as when the node is killed; what is under way still ends.
    #[arg(long = "until_failure")]
    pub until_failure: bool,
}

/// A line of a ledger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Entry {
    seed: u64,
    step: u64,
    what: What,
}

/// What of a step was acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum What {
    /// Its blob of this index.
    Blob(usize),
    /// The blob of this size that it is.
    Sized(usize),
    /// Its result.
    Result,
}

impl Entry {
    fn step(&self) -> Step {
        match self.what {
            What::Sized(bytes) => Step::of_size(self.seed, self.step, bytes),
            What::Blob(_) | What::Result => Step::of(self.seed, self.step),
        }
    }

    /// Which of the step's blobs it is of.
    const fn index(&self) -> Option<usize> {
        match self.what {
            What::Blob(index) => Some(index),
            What::Sized(_) => Some(0),
            What::Result => None,
        }
    }
}

impl FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let words: Vec<_> = line.split(' ').collect();
        let (seed, step, what) = match *words {
            ["blob", seed, step, index] => (seed, step, What::Blob(index.parse()?)),
            ["sized", seed, step, bytes] => (seed, step, What::Sized(bytes.parse()?)),
            ["result", seed, step] => (seed, step, What::Result),
            _ => bail!("'{line}' is no line of a ledger"),
        };
        Ok(Self { seed: seed.parse()?, step: step.parse()?, what })
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seed, step) = (self.seed, self.step);
        match self.what {
            What::Blob(index) => write!(f, "blob {seed} {step} {index}"),
            What::Sized(bytes) => write!(f, "sized {seed} {step} {bytes}"),
            What::Result => write!(f, "result {seed} {step}"),
        }
    }
}

/// What came of a trial. Printed as a line of `name=value`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sums {
    /// Blobs acknowledged or found whole.
    pub blobs: u64,
    /// Results acknowledged or found.
    pub results: u64,
    /// Calls that failed, or that were answered wrongly.
    pub failures: u64,
}

impl std::fmt::Display for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "blobs={} results={} failures={}", self.blobs, self.results, self.failures)
    }
}

/// Stores what `amount` says and writes down what was acknowledged.
///
/// # Errors
/// When the ledger cannot be written. That calls fail is no error: it is in the sums.
pub async fn write(asked: &Asked, amount: &Amount) -> anyhow::Result<Sums> {
    let client = Client::new(&asked.server, &asked.instance)?;
    let file = OpenOptions::new().create(true).append(true).open(&asked.ledger);
    let file = Mutex::new(file.with_context(|| format!("cannot open {}", asked.ledger.display()))?);
    let note = |entry: Entry| {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{entry}")
    };
    let end = Instant::now() + Duration::from_secs(amount.seconds);
    let writer = Writer { client: &client, retries: asked.retries, edition: asked.edition, amount };
    let failed = AtomicBool::new(false);
    let more = |_: &u64| {
        let lost = amount.until_failure && failed.load(Ordering::Relaxed);
        std::future::ready(!lost && Instant::now() < end)
    };
    let steps = stream::iter(0..amount.steps).take_while(more);
    let mut steps = steps.map(|step| writer.take(step)).buffer_unordered(asked.concurrency);
    let mut sums = Sums::default();
    while let Some(taken) = steps.next().await {
        for entry in taken.acknowledged {
            note(entry)?;
            if entry.index().is_some() { sums.blobs += 1 } else { sums.results += 1 }
        }
        if let Some(status) = taken.failure {
            tell(&mut sums, &format!("step {}: {}", taken.number, short(&status)));
            failed.store(true, Ordering::Relaxed);
        }
    }
    Ok(sums)
}

/// What came of a step.
struct Taken {
    number: u64,
    acknowledged: Vec<Entry>,
    failure: Option<Status>,
}

struct Writer<'a> {
    client: &'a Client,
    retries: u32,
    edition: u32,
    amount: &'a Amount,
}

impl Writer<'_> {
    async fn take(&self, number: u64) -> Taken {
        let mut taken = Taken { number, acknowledged: Vec::new(), failure: None };
        let mut pause = FIRST_PAUSE;
        for left in (0..=self.retries).rev() {
            taken.failure = self.attempt(&mut taken).await.err();
            let again =
                taken.failure.as_ref().is_some_and(|status| status.code() == Code::Unavailable);
            if !again || left == 0 {
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        taken
    }

    /// Stores of a step what the node does not have, as builds do.
    async fn attempt(&self, taken: &mut Taken) -> Result<(), Status> {
        let Amount { seed, blob_bytes, .. } = *self.amount;
        let number = taken.number;
        let entry = |index| Entry {
            seed,
            step: number,
            what: blob_bytes.map_or(What::Blob(index), What::Sized),
        };
        let step = entry(0).step();
        let all: Vec<_> = (0..step.blobs()).map(|index| content(&step, index)).collect();
        let digests: Vec<_> = all.iter().map(|(digest, _)| *digest).collect();
        let missing = self.client.missing(&digests).await?;
        let (wanted, there): (Vec<_>, Vec<_>) = (0..all.len())
            .partition(|index| missing.iter().any(|hash| hash == digests[*index].hex().as_str()));
        taken.acknowledged.extend(there.into_iter().map(entry));
        if !wanted.is_empty() {
            let blobs: Vec<_> = wanted.iter().map(|index| all[*index].clone()).collect();
            let stored = self.client.store(step.way, &blobs).await?;
            let mut refused = Ok(());
            for (index, stored) in wanted.into_iter().zip(stored) {
                match stored {
                    Ok(()) => taken.acknowledged.push(entry(index)),
                    Err(status) => refused = Err(status),
                }
            }
            refused?;
        }
        if step.has_result {
            self.client.put_result(&step.action(), step.result(self.edition)).await?;
            taken.acknowledged.push(Entry { seed, step: number, what: What::Result });
        }
        Ok(())
    }
}

fn content(step: &Step, index: usize) -> (Digest, Bytes) {
    let data = step.blob(index);
    (Digest::of(Function::Sha256, &data), data)
}

/// Asks a node for all that stands in the ledger.
///
/// # Errors
/// When the ledger cannot be read. What is missing or wrong is no error: it is in the sums, and told on standard error.
pub async fn verify(asked: &Asked) -> anyhow::Result<Sums> {
    let client = Client::new(&asked.server, &asked.instance)?;
    let entries = read(&asked.ledger)?;
    let mut sums = Sums::default();
    let blobs: Vec<_> = entries.iter().filter(|entry| entry.index().is_some()).copied().collect();
    for some in blobs.chunks(ASKED_AT_ONCE) {
        let digests: Vec<_> = some.iter().map(digest_of).collect();
        match patiently(asked.retries, || client.missing(&digests)).await {
            Ok(missing) => {
                for hash in missing {
                    tell(&mut sums, &format!("FindMissingBlobs says that {hash} is missing"));
                }
            }
            Err(status) => tell(&mut sums, &format!("FindMissingBlobs: {}", short(&status))),
        }
    }
    let held = entries.iter().map(|entry| hold(&client, *entry, asked));
    let mut held = stream::iter(held).buffer_unordered(asked.concurrency);
    while let Some((entry, held)) = held.next().await {
        match held {
            Ok(()) if entry.index().is_some() => sums.blobs += 1,
            Ok(()) => sums.results += 1,
            Err(why) => tell(&mut sums, &format!("{entry}: {why}")),
        }
    }
    Ok(sums)
}

/// Reads a listing of the bucket's keys, a line each: each of the ledger's results that is there must have all of its blobs there.
///
/// # Errors
/// When a file cannot be read. What is missing is no error: it is in the sums, and told on standard error.
pub fn audit(ledger: &Path, keys: &Path) -> anyhow::Result<Sums> {
    let text = std::fs::read_to_string(keys);
    let text = text.with_context(|| format!("cannot read {}", keys.display()))?;
    let (blobs, results) = (hashes(&text, "cas"), hashes(&text, "ac"));
    let mut sums = Sums { blobs: blobs.len() as u64, ..Sums::default() };
    for entry in read(ledger)?.iter().filter(|entry| entry.what == What::Result) {
        let step = entry.step();
        if !results.contains(step.action().hex().as_str()) {
            continue;
        }
        sums.results += 1;
        for index in 0..step.blobs() {
            if !blobs.contains(content(&step, index).0.hex().as_str()) {
                tell(&mut sums, &format!("{entry} is in the bucket without its blob {index}"));
            }
        }
    }
    Ok(sums)
}

/// The hashes of the keys of one kind, which are `…/KIND/INSTANCE…/FUNCTION/HASH-SIZE`.
fn hashes<'a>(keys: &'a str, kind: &str) -> BTreeSet<&'a str> {
    let of_kind = keys.lines().filter(|key| key.split('/').any(|part| part == kind));
    of_kind.filter_map(|key| key.rsplit('/').next()?.split('-').next()).collect()
}

fn read(ledger: &Path) -> anyhow::Result<BTreeSet<Entry>> {
    let text = std::fs::read_to_string(ledger);
    let text = text.with_context(|| format!("cannot read {}", ledger.display()))?;
    text.lines().map(str::parse).collect()
}

fn digest_of(entry: &Entry) -> Digest {
    content(&entry.step(), entry.index().unwrap_or(0)).0
}

/// Holds the node to one entry.
async fn hold(client: &Client, entry: Entry, asked: &Asked) -> (Entry, Result<(), String>) {
    let step = entry.step();
    let Asked { retries, edition, .. } = *asked;
    let held = match entry.index() {
        Some(index) => hold_blob(client, &step, entry, index, retries).await,
        None => {
            let action = step.action();
            match patiently(retries, || client.result(&action)).await {
                Ok(result) if result.output_files == step.result(edition).output_files => Ok(()),
                Ok(_) => Err("another result".to_owned()),
                Err(status) => Err(short(&status)),
            }
        }
    };
    (entry, held)
}

async fn hold_blob(
    client: &Client,
    step: &Step,
    entry: Entry,
    index: usize,
    retries: u32,
) -> Result<(), String> {
    let (digest, want) = content(step, index);
    let size = digest.size_bytes();
    // A range first, where nothing was read before.
    let readings = match entry.step % 3 {
        0 if size <= LARGEST_OF_BATCH_BYTES => vec![Reading::Batch],
        0 | 1 => vec![Reading::From(size / 3 * 2), Reading::From(0)],
        _ => vec![Reading::Frames],
    };
    for reading in readings {
        let got = patiently(retries, || client.read(&digest, reading)).await;
        let got =
            got.map_err(|status| format!("{reading:?} of {size} bytes: {}", short(&status)))?;
        let begin = if let Reading::From(offset) = reading { offset as usize } else { 0 };
        if got != want[begin..] {
            return Err(format!(
                "WRONG BYTES: {reading:?} of {size} bytes gave {} bytes",
                got.len()
            ));
        }
    }
    Ok(())
}

/// Makes a call again while it ends in UNAVAILABLE.
async fn patiently<T>(
    retries: u32,
    call: impl AsyncFn() -> Result<T, Status>,
) -> Result<T, Status> {
    let mut pause = FIRST_PAUSE;
    for _ in 0..retries {
        match call().await {
            Err(status) if status.code() == Code::Unavailable => tokio::time::sleep(pause).await,
            done => return done,
        }
        pause *= 2;
    }
    call().await
}

fn tell(sums: &mut Sums, what: &str) {
    if sums.failures < FAILURES_TOLD as u64 {
        // A message that nobody reads is no reason to stop.
        let _unread = writeln!(std::io::stderr(), "{what}");
    }
    sums.failures += 1;
}

fn short(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_found_in_keys() {
        let keys = "p/v1/ab/cas/-/sha256/abcd-12\np/v1/ac/ac/-/sha256/ac01-3\np/v1/meta/version\n";
        assert_eq!(hashes(keys, "cas"), BTreeSet::from(["abcd"]));
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        for line in ["blob 7 12 3", "sized 7 12 300", "result 7 12"] {
            assert_eq!(line.parse::<Entry>().unwrap().to_string(), line);
        }
        assert!("blob 7 12".parse::<Entry>().is_err());
        assert!("result 7 12 3 4".parse::<Entry>().is_err());
    }
}
