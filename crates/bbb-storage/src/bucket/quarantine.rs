//! What becomes of objects whose bytes are wrong: they are put aside, for people to look at, so that the
//! next one who asks is told that the blob is missing, and uploads it again.

use std::sync::Arc;

use object_store::{ObjectMeta, path::Path};

use super::{Bucket, existence::Id, object::Damage, retry::Failure, stats::add};

/// How often an object is read before a reader gives up on it.
const MAX_READS: u32 = 4;

/// What a reader thinks of an object whose bytes were wrong.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    last: Option<Damage>,
    reads: u32,
}

/// What follows from wrong bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// They may have been changed on their way: read once more.
    ReadAgain,
    /// They are always wrong in another way: what carries them is broken, here or in between. Nobody can
    /// tell what is in the bucket.
    GiveUp,
    /// They were wrong in the same way twice: that is how they lie in the bucket.
    Quarantine,
}

impl Doubts {
    /// Notes that a read gave wrong bytes.
    pub(super) fn note(&mut self, damage: &Damage) -> Doubt {
        self.reads += 1;
        let is_same = self.last.as_ref() == Some(damage);
        self.last = Some(damage.clone());
        match is_same {
            true => Doubt::Quarantine,
            false if self.reads < MAX_READS => Doubt::ReadAgain,
            false => Doubt::GiveUp,
        }
    }
}

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
        self.existence.shun(Id::of(key));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_in_the_same_way_twice_is_put_aside() {
        let damage = |what: &str| Damage::new(what);
        let mut doubts = Doubts::default();
        assert_eq!(doubts.note(&damage("a")), Doubt::ReadAgain);
        assert_eq!(doubts.note(&damage("b")), Doubt::ReadAgain);
        assert_eq!(doubts.note(&damage("b")), Doubt::Quarantine);
        let mut doubts = Doubts::default();
        for what in ["a", "b", "a"] {
            assert_eq!(doubts.note(&damage(what)), Doubt::ReadAgain);
        }
        assert_eq!(doubts.note(&damage("c")), Doubt::GiveUp);
    }
}
