//! The results of one instance in the bucket.

use std::{fmt, io, sync::Arc};

use async_trait::async_trait;
use bbb_digest::{Digest, InstanceName};
use object_store::PutPayload;

use crate::{ActionCache, ActionResult, Error, Result};

use super::{
    Bucket,
    keys::Kind,
    object::{MAX_RESULT_BYTES, decode_result, encode_result},
    quarantine::{Doubt, Doubts},
    retry::Failure,
    store::Part,
};

/// What a result is expected to take in memory while it is read; few are larger.
const EXPECTED_BYTES: u64 = 64 << 10;

/// The view of an instance's results.
#[derive(Clone, Debug)]
pub(super) struct Results {
    bucket: Arc<Bucket>,
    instance: InstanceName,
    /// Results, or what has their form.
    kind: Kind,
}

impl Results {
    pub(super) fn new(bucket: &Arc<Bucket>, instance: &InstanceName, kind: Kind) -> Self {
        Self { bucket: Arc::clone(bucket), instance: instance.clone(), kind }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ActionCache for Results {
    async fn get(&self, action: Digest) -> Result<Option<Arc<ActionResult>>> {
        let key = self.bucket.keys.entry(self.kind, &self.instance, action);
        let _taken = self.bucket.budget.reads.take(EXPECTED_BYTES).await?;
        let mut doubts = Doubts::default();
        loop {
            let fetched = match self.bucket.store.get(&key, Part::All, MAX_RESULT_BYTES, None).await
            {
                Ok(fetched) => fetched,
                Err(Failure::Missing) => {
                    return self.bucket.believe_miss().await.map(|()| None);
                }
                Err(failure) => return Err(failure.into_error("reading the result of", action)),
            };
            let damage = match decode_result(&key, &fetched.bytes) {
                Ok(result) => {
                    let is_held = self.bucket.hold(self.kind, &fetched.meta).await?;
                    return Ok(is_held.then(|| Arc::new(result)));
                }
                Err(damage) => damage.of_bytes(&fetched.bytes),
            };
            match doubts.note(&damage) {
                Doubt::ReadAgain => continue,
                Doubt::GiveUp => {}
                Doubt::Quarantine => self.bucket.quarantine(&key, &damage, &fetched.meta).await,
            }
            let source = io::Error::new(io::ErrorKind::InvalidData, damage);
            let what = format!("the result of {action} in the bucket is damaged");
            return Err(Error::unavailable(what, source));
        }
    }

    async fn put(&self, action: Digest, result: ActionResult) -> Result<()> {
        let key = self.bucket.keys.entry(self.kind, &self.instance, action);
        let object = encode_result(&key, &result, self.bucket.settings.compress);
        if object.len() as u64 > MAX_RESULT_BYTES {
            let what = format!("results are limited to {MAX_RESULT_BYTES} bytes");
            return Err(Error::Full { size_bytes: object.len() as u64, what });
        }
        let _taken = self.bucket.budget.writes.take(object.len() as u64).await?;
        let put = self.bucket.put(self.kind, &key, PutPayload::from(object)).await;
        put.map_err(|failure| failure.into_error("writing the result of", action))
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.bucket, self.instance)
    }
}
