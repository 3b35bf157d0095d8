//! What becomes of objects whose bytes are wrong: they are put aside, for people to look at, so that the
//! next one who asks is told that the blob is missing, and uploads it again.

use std::sync::Arc;

use object_store::{ObjectMeta, path::Path};

use super::{Bucket, existence::Id, object::Damage, retry::Failure, stats::add};

impl Bucket {
    /// Puts an object aside that was found damaged, unless it has been written anew meanwhile. What
    /// cannot be moved stays, and is found again by its next reader.
    pub(super) async fn quarantine(
        self: &Arc<Self>,
        key: &Path,
        damage: &Damage,
        meta: &ObjectMeta,
    ) {
        add(&self.store.counters.damaged, 1);
        self.existence.gone(Id::of(key));
        tracing::warn!(%key, %damage, size_bytes = meta.size, "object is damaged: putting it aside");
        match self.put_aside(key, meta).await {
            Ok(()) | Err(Failure::Missing | Failure::Condition) => {}
            Err(error) => tracing::warn!(%key, %error, "damaged object stays where it is"),
        }
    }

    async fn put_aside(&self, key: &Path, meta: &ObjectMeta) -> Result<(), Failure> {
        let aside = self.keys.aside(key);
        // Without the copy there is less to look at, but the object has to go in any case.
        if let Err(error) = self.store.copy(key, &aside).await {
            tracing::warn!(%key, %error, "damaged object is not kept");
        }
        let now = self.store.head(key).await?;
        let is_same = now.e_tag == meta.e_tag && now.last_modified == meta.last_modified;
        match is_same {
            true => self.store.delete(key).await,
            false => Err(Failure::Condition),
        }
    }
}
