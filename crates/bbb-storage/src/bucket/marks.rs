//! Marks: how two nodes find out whether their bucket is the same, however each of them writes its name.
//!
//! ```text
//! <prefix>/v1/meta/nodes/<mark>     32 hexadecimal digits, drawn at random when the node starts
//! ```
//!
//! A node leaves one, tells it to others, and they look for it through their own bucket. It is written anew every hour and
//! taken away at the end; those of nodes that ended otherwise are taken away by whoever sees them a day later.

use std::{fmt, io, str::FromStr, sync::Arc, time::Duration};

use bbb_lifecycle::{Stop, TaskGroup};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{Error, Result};

use super::{Bucket, retry::Failure};

/// What all marks lie under.
const FOLDER: &str = "nodes";

/// How often a mark is written anew.
const RENEW_EVERY: Duration = Duration::from_secs(3600);

/// The age at which a mark counts as left behind.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How many marks are looked at in one round.
const MAX_LISTED: usize = 10_000;

/// How many marks are taken away in one round.
const MAX_SWEPT: usize = 1000;

/// What a node has left in its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark(Uuid);

/// This is no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bucket's mark has 32 lowercase hexadecimal digits")]
pub struct MarkError;

impl FromStr for Mark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, MarkError> {
        let parsed = Uuid::try_parse(text).map(Self).map_err(|_| MarkError)?;
        // Nothing but the one way in which it is written here.
        (parsed.to_string() == text).then_some(parsed).ok_or(MarkError)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl Bucket {
    /// Leaves a mark in the bucket. A task of `group` keeps it there and takes it away when the group stops.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be written.
    pub async fn leave_mark(self: &Arc<Self>, group: &TaskGroup) -> Result<Mark> {
        let mark = Mark(Uuid::new_v4());
        self.write_mark(mark).await?;
        group.spawn("mark", Arc::clone(self).keep_mark(mark, group.stop()));
        Ok(mark)
    }

    /// Whether a mark is in this bucket.
    ///
    /// # Errors
    /// [`Error::Unavailable`] on any fault.
    pub async fn has_mark(self: &Arc<Self>, mark: Mark) -> Result<bool> {
        match self.store.head(&self.mark_key(mark)).await {
            Ok(_) => Ok(true),
            Err(Failure::Missing) => self.believe_miss().await.map(|()| false),
            Err(failure) => Err(unavailable("looking for the mark of another node", failure)),
        }
    }

    async fn write_mark(&self, mark: Mark) -> Result<()> {
        let key = self.mark_key(mark);
        let written = self.store.put(&key, Bytes::from(mark.to_string()).into()).await;
        written.map_err(|failure| unavailable("leaving a mark", failure))
    }

    /// Sweeps marks that were left behind and writes its own anew, again and again.
    async fn keep_mark(self: Arc<Self>, mark: Mark, stop: Stop) {
        let keep = async {
            loop {
                if let Err(error) = self.sweep_marks(mark).await {
                    tracing::debug!(%error, "cannot look after the marks of nodes that are gone");
                }
                sleep(RENEW_EVERY).await;
                if let Err(error) = self.write_mark(mark).await {
                    tracing::warn!(%error, "cannot keep this node's mark in the bucket");
                }
            }
        };
        stop.until_requested(keep).await;
        if let Err(error) = self.store.delete(&self.mark_key(mark)).await {
            tracing::debug!(%error, "cannot take this node's mark away");
        }
    }

    /// Takes away what was left behind, by the server's clock: our own mark was written a moment ago.
    async fn sweep_marks(&self, mark: Mark) -> Result<(), Failure> {
        let now = self.store.head(&self.mark_key(mark)).await?.last_modified;
        let folder = self.keys.meta(FOLDER);
        let listed: Vec<_> = self.store.list(folder).take(MAX_LISTED).try_collect().await?;
        let left_behind = |modified| {
            let age = now.signed_duration_since(modified).to_std();
            age.is_ok_and(|age| age > LEFT_BEHIND_AFTER)
        };
        let is_mark = |key: &Path| key.filename().is_some_and(|name| name.parse::<Mark>().is_ok());
        let old = listed.into_iter().filter(|meta| left_behind(meta.last_modified));
        let old: Vec<Path> =
            old.map(|meta| meta.location).filter(is_mark).take(MAX_SWEPT).collect();
        if old.is_empty() {
            return Ok(());
        }
        tracing::debug!(count = old.len(), "taking away the marks of nodes that are gone");
        let mut deleted = self.store.delete_all(old);
        while let Some(outcome) = deleted.next().await {
            if let Err(error) = outcome {
                tracing::debug!(%error, "cannot take a mark away");
            }
        }
        Ok(())
    }

    fn mark_key(&self, mark: Mark) -> Path {
        self.keys.meta(&format!("{FOLDER}/{mark}"))
    }
}

fn unavailable(what: &str, failure: Failure) -> Error {
    Error::unavailable(what, io::Error::other(failure))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::{BucketLocation, BucketSettings, Objects};

    fn bucket(store: &Arc<InMemory>, prefix: &str, group: &TaskGroup) -> Arc<Bucket> {
        let location = BucketLocation::S3 { bucket: "b".to_owned(), prefix: Path::from(prefix) };
        let objects = Objects::with_parts(Arc::clone(store));
        Bucket::over(objects, BucketSettings::new(location), true, group)
    }

    #[tokio::test]
    async fn a_mark_is_seen_in_the_same_bucket_alone_and_goes_with_its_node() {
        let (store, other) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
        let (nodes, others) = (TaskGroup::new("node"), TaskGroup::new("others"));
        let mark = bucket(&store, "p", &nodes).leave_mark(&nodes).await.unwrap();
        assert!(bucket(&store, "p", &others).has_mark(mark).await.unwrap());
        assert!(!bucket(&store, "q", &others).has_mark(mark).await.unwrap());
        assert!(!bucket(&other, "p", &others).has_mark(mark).await.unwrap());
        assert_eq!(nodes.shut_down(Duration::from_secs(60)).await, 0);
        assert!(!bucket(&store, "p", &others).has_mark(mark).await.unwrap());
    }

    #[test]
    fn marks_are_read_in_one_form_alone() {
        let mark = Mark(Uuid::new_v4());
        assert_eq!(mark.to_string().parse(), Ok(mark));
        let hyphenated = mark.0.hyphenated().to_string();
        for bad in ["", "../lease", "0123456789ABCDEF0123456789ABCDEF", &hyphenated] {
            assert_eq!(bad.parse::<Mark>(), Err(MarkError), "{bad}");
        }
    }
}
