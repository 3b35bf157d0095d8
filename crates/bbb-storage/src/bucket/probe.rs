//! The trial of a bucket at start: a node that cannot use it says so in one line, and does not start.

use std::{io, path::PathBuf, time::Duration};

use object_store::{PutPayload, path::Path};
use tokio::time::{self, Instant};

use super::{
    BucketLocation, BucketSettings, Objects,
    keys::Keys,
    prefix,
    retry::Failure,
    store::{Part, Store},
};

/// How long the trial may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the layout's version is read before what it says is believed to be another one.
const MAX_VERSION_READS: usize = 4;

/// What stands in the object that says which version of the layout a bucket has.
pub(super) const VERSION: &[u8] = b"buildbuildbuild bucket 1\n";

/// Where it lies below `meta`.
pub(super) const VERSION_NAME: &str = "version";

/// Why a bucket cannot be used. Each is one line that says what to look at.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The endpoint is no URL of a server.
    #[error("--endpoint={endpoint} is no URL; write http://host:port or https://host")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// The settings contradict each other, or the environment's do.
    #[error(
        "cannot set up S3; check --region, --endpoint and the AWS_ environment variables: {what}"
    )]
    Settings {
        /// What the library says.
        what: String,
    },
    /// There are no keys anywhere, and the machine's metadata service has none or is not to be asked.
    #[error(
        "found no keys for the bucket; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE: {what}"
    )]
    NoKeys {
        /// What happened without.
        what: String,
    },
    /// The profile has no keys.
    #[error(
        "AWS profile '{name}' cannot be used: {what}; check AWS_PROFILE and ~/.aws/credentials"
    )]
    Profile {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The folder of a `file://` bucket cannot be used.
    #[error("--bucket=file://{} cannot be used", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such bucket there.
    #[error(
        "--bucket={location}: there is no such bucket; check --bucket, --endpoint and --region: {what}"
    )]
    NoBucket {
        /// Which bucket.
        location: String,
        /// What the server says.
        what: String,
    },
    /// The server does not let us.
    #[error(
        "--bucket={location}: may not {step}; check the credentials and what they permit, --region and --endpoint: {what}"
    )]
    Refused {
        /// Which bucket.
        location: String,
        /// What was tried.
        step: &'static str,
        /// What the server says.
        what: String,
    },
    /// The server does not answer, or answers with errors.
    #[error(
        "--bucket={location}: cannot {step}; check --endpoint, --region and the network: {what}"
    )]
    Unreachable {
        /// Which bucket.
        location: String,
        /// What was tried.
        step: &'static str,
        /// What happened.
        what: String,
    },
    /// Objects would expire too early to promise anything.
    #[error("--expire_after: {what}")]
    ExpireAfter {
        /// What is wrong.
        what: String,
    },
    /// There is no room.
    #[error("--bucket={location}: cannot {step}, the bucket is full: {what}")]
    Full {
        /// Which bucket.
        location: String,
        /// What was tried.
        step: &'static str,
        /// What the server says.
        what: String,
    },
    /// What was written is not what is read.
    #[error("--bucket={location}: gives back other bytes than were written")]
    Forgetful {
        /// Which bucket.
        location: String,
    },
    /// Another version of the layout lies there.
    #[error(
        "--bucket={location}: holds the layout '{found}', this node knows 'buildbuildbuild bucket 1'; choose another prefix"
    )]
    Version {
        /// Which bucket.
        location: String,
        /// What was found.
        found: String,
    },
}

impl BucketError {
    /// The same where nothing says where keys come from: that is then what to look at.
    pub(super) fn without_keys(self) -> Self {
        match self {
            Self::Refused { what, .. } | Self::Unreachable { what, .. } => Self::NoKeys { what },
            other => other,
        }
    }
}

/// Tries a bucket; gives whether it honours conditions.
pub(super) async fn probe(
    objects: &Objects,
    settings: &BucketSettings,
) -> Result<bool, BucketError> {
    let probe = Probe {
        store: Store::new(objects.clone(), PATIENCE),
        keys: Keys::new(&prefix(&settings.location)),
        location: &settings.location,
    };
    let began = Instant::now();
    match time::timeout(PATIENCE, probe.run()).await {
        Ok(honours_conditions) => honours_conditions,
        Err(_) => Err(BucketError::Unreachable {
            location: settings.location.to_string(),
            step: "try the bucket",
            what: format!("no answer within {} s", began.elapsed().as_secs()),
        }),
    }
}

struct Probe<'a> {
    store: Store,
    keys: Keys,
    location: &'a BucketLocation,
}

impl Probe<'_> {
    async fn run(&self) -> Result<bool, BucketError> {
        let token: [u8; 16] = rand::random();
        let name: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = self.keys.meta(&format!("probe/{name}"));
        let body = || PutPayload::from(token.to_vec());
        // First of all: a key without the right to list sees "forbidden" where there is nothing, and a
        // cache without misses is none.
        match self.store.get(&key, Part::All, 64, None).await {
            Err(Failure::Missing) => {}
            Ok(_) => return Err(BucketError::Forgetful { location: self.location.to_string() }),
            Err(failure) => return Err(self.error("look for an object (s3:ListBucket)", failure)),
        }
        self.write(&key, body()).await?;
        self.check_token(&key, &token).await?;
        let honours_conditions = self.try_condition(&key, body()).await?;
        let deleted = self.store.delete(&key).await;
        deleted.map_err(|failure| self.error("delete (s3:DeleteObject)", failure))?;
        self.check_version().await?;
        Ok(honours_conditions)
    }

    /// Reads what was just written; once more if it is not that, since it may have been damaged on its way.
    async fn check_token(&self, key: &Path, token: &[u8]) -> Result<(), BucketError> {
        for _ in 0..2 {
            let read = self.store.get(key, Part::All, 64, None).await;
            let read = read.map_err(|failure| self.error("read (s3:GetObject)", failure))?;
            if read.bytes == token {
                return Ok(());
            }
        }
        Err(BucketError::Forgetful { location: self.location.to_string() })
    }

    async fn write(&self, key: &Path, body: PutPayload) -> Result<(), BucketError> {
        let written = self.store.put(key, body).await;
        written.map_err(|failure| self.error("write (s3:PutObject)", failure))
    }

    async fn try_condition(&self, key: &Path, body: PutPayload) -> Result<bool, BucketError> {
        match self.store.create(key, body).await {
            Err(Failure::Condition) => Ok(true),
            Ok(()) => Ok(false),
            // It does not know what is asked for.
            Err(Failure::Refused(what)) => {
                tracing::debug!(what, "conditional writes are refused");
                Ok(false)
            }
            Err(failure) => Err(self.error("write on a condition", failure)),
        }
    }

    async fn check_version(&self) -> Result<(), BucketError> {
        let key = self.keys.meta(VERSION_NAME);
        let mut before = None;
        for _ in 0..MAX_VERSION_READS {
            match self.store.get(&key, Part::All, 256, None).await {
                Ok(found) if found.bytes == VERSION => return Ok(()),
                // Bytes are damaged on their way too: another version says the same twice.
                Ok(found) if before.as_ref() == Some(&found.bytes) => break,
                Ok(found) => before = Some(found.bytes),
                Err(Failure::Missing) => {
                    return self.write(&key, PutPayload::from_static(VERSION)).await;
                }
                Err(failure) => return Err(self.error("read (s3:GetObject)", failure)),
            }
        }
        let found = before.unwrap_or_default();
        Err(BucketError::Version {
            location: self.location.to_string(),
            found: String::from_utf8_lossy(&found).trim().to_owned(),
        })
    }

    fn error(&self, step: &'static str, failure: Failure) -> BucketError {
        let location = self.location.to_string();
        match failure {
            Failure::NoBucket(what) => BucketError::NoBucket { location, what },
            Failure::Refused(what) => BucketError::Refused { location, step, what },
            Failure::Full(what) => BucketError::Full { location, step, what },
            other => BucketError::Unreachable { location, step, what: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::{ObjectStore as _, ObjectStoreExt as _, memory::InMemory};

    use crate::conformance::{Faults, Faulty};

    use super::*;

    fn settings() -> BucketSettings {
        BucketSettings::new("s3://builds/a".parse().unwrap())
    }

    #[tokio::test]
    async fn a_bucket_is_tried_and_left_with_its_version_only() {
        let memory = Arc::new(InMemory::new());
        let objects = Objects::with_parts(Arc::clone(&memory));
        for _ in 0..2 {
            assert!(probe(&objects, &settings()).await.unwrap());
        }
        let left = memory.list_with_delimiter(Some(&Path::from("a/v1/meta"))).await.unwrap();
        assert_eq!(left.objects.len(), 1);
        assert_eq!(left.objects[0].location.to_string(), "a/v1/meta/version");
        memory.put(&left.objects[0].location, "something else".into()).await.unwrap();
        let error = probe(&objects, &settings()).await.unwrap_err();
        assert!(matches!(error, BucketError::Version { .. }), "{error}");
    }

    #[tokio::test]
    async fn bytes_damaged_on_their_way_are_no_other_version() {
        let memory = Arc::new(InMemory::new());
        for seed in 0..200 {
            let faulty = Arc::new(Faulty::new(Arc::clone(&memory), seed));
            faulty.set(Faults { wrong_bytes: 0.15, ..Faults::default() });
            let tried = probe(&Objects::with_parts(faulty), &settings()).await;
            assert!(!matches!(tried, Err(BucketError::Version { .. })), "seed {seed}: {tried:?}");
        }
    }
}
