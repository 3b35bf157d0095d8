//! Pages: which blobs the logs are that have ended.
//!
//! What ended within a second goes out in one page for each second in which logs began: so a million quick actions take some
//! requests a second and not one each. The pages of one such second are numbered, and a reader looks at them in turn.
//!
//! A page is stored as an `ActionResult` whose files are named by their logs, in a key that follows from the log's name:
//! it has the form, the checksum and the lifetime of a result, and so dies before the blobs that it names.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bbb_digest::{Digest, Function, InstanceName};
use bbb_reapi::{LogHost, LogId, LogResource, ToProto as _, proto::reapi};

use crate::{ActionCache, Result};

/// How many logs may wait for their page; past that, more are not found once the node has forgotten them.
const MAX_WAITING: usize = 64 << 10;

/// How many logs one page names.
const MAX_IN_PAGE: usize = 4096;

/// How many pages there may be of one second.
const MAX_PAGES: u32 = 1024;

/// Gives the place of an instance's pages.
pub type PagesOf = Box<dyn Fn(&InstanceName) -> Arc<dyn ActionCache> + Send + Sync>;

/// Those that belong together: the instance, the node and the second in which they began.
type Group = (InstanceName, LogHost, u32);

pub(super) struct Pages {
    of: PagesOf,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    groups: BTreeMap<Group, Vec<(LogId, Digest)>>,
    count: usize,
}

impl Pages {
    pub(super) fn new(of: PagesOf) -> Self {
        Self { of, waiting: Mutex::default() }
    }

    /// Has a log named by the next page. False if too many wait for that.
    pub(super) fn note(&self, log: &LogResource, digest: Digest) -> bool {
        let mut waiting = self.waiting();
        if waiting.count >= MAX_WAITING {
            tracing::warn!(%log, "too many logs wait to be written down: it will not be found for long");
            return false;
        }
        waiting.count += 1;
        waiting.groups.entry(group(log)).or_default().push((log.id, digest));
        true
    }

    /// Writes down all that waits. What cannot be written waits on. Returns what was written down.
    pub(super) async fn flush(&self) -> Vec<LogResource> {
        let groups = mem::take(&mut *self.waiting()).groups;
        let mut flushed = Vec::new();
        for (group, logs) in groups {
            for part in logs.chunks(MAX_IN_PAGE) {
                match self.write(&group, part).await {
                    Ok(()) => {
                        let named = part.iter().map(|(id, _)| (group.0.clone(), *id));
                        flushed.extend(named.map(|(instance, id)| LogResource { instance, id }));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot write down which logs have ended");
                        let mut waiting = self.waiting();
                        waiting.count += part.len();
                        waiting.groups.entry(group.clone()).or_default().extend_from_slice(part);
                    }
                }
            }
        }
        flushed
    }

    async fn write(&self, group: &Group, logs: &[(LogId, Digest)]) -> Result<()> {
        let pages = (self.of)(&group.0);
        let mut number = 0;
        // Others may be there: of this process or of one before it.
        while number < MAX_PAGES && pages.get(key(group, number)).await?.is_some() {
            number += 1;
        }
        let files = logs.iter().map(|(log, digest)| reapi::OutputFile {
            path: name(*log, digest.function()),
            digest: Some(digest.to_proto()),
            ..reapi::OutputFile::default()
        });
        let page =
            reapi::ActionResult { output_files: files.collect(), ..reapi::ActionResult::default() };
        pages.put(key(group, number), page).await
    }

    /// The blob that a log has become; none if no page names it.
    pub(super) async fn find(&self, log: &LogResource) -> Result<Option<Digest>> {
        let group = group(log);
        if let Some(waiting) = self.waiting().groups.get(&group)
            && let Some((_, digest)) = waiting.iter().find(|(id, _)| *id == log.id)
        {
            return Ok(Some(*digest));
        }
        let pages = (self.of)(&log.instance);
        for number in 0..MAX_PAGES {
            let Some(page) = pages.get(key(&group, number)).await? else { return Ok(None) };
            let found = page.output_files.iter().find_map(|file| digest_of(log.id, file));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn group(log: &LogResource) -> Group {
    (log.instance.clone(), log.id.host, log.id.began())
}

/// What a page calls a log: the function of its blob stands behind.
fn name(log: LogId, function: Function) -> String {
    format!("{log}/{function}")
}

/// The blob of a log, if it is the one that is named.
fn digest_of(log: LogId, file: &reapi::OutputFile) -> Option<Digest> {
    let (id, function) = file.path.split_once('/')?;
    let function = Function::from_name(function).filter(|_| LogId::parse(id) == Some(log))?;
    bbb_reapi::digest(function, file.digest.as_ref()?).ok()
}

/// Where a page lies. It looks like a digest, and is that of no action.
fn key((_, host, began): &Group, number: u32) -> Digest {
    let name = format!("log page {:016x} {began:08x} {number}", host.0);
    Digest::of(Function::Sha256, name.as_bytes())
}
