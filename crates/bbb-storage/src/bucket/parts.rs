//! Writing of an object in parts. Nothing is visible before the end; an upload that is given up, or whose
//! future is dropped, is aborted.

use std::{mem, sync::Arc};

use bbb_lifecycle::TaskGroup;
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use object_store::{
    MultipartId, MultipartUpload, ObjectMeta, ObjectStoreExt as _, PutPayload,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use tokio::runtime::Handle;

use super::{
    retry::Failure,
    stats::{Request, add},
    store::Store,
};

/// A part that is on its way.
pub(super) type Sending = BoxFuture<'static, Result<(usize, Option<PartId>), Failure>>;

/// An upload in parts.
pub(super) struct Upload {
    store: Arc<Store>,
    key: Path,
    group: TaskGroup,
    open: Open,
    next: usize,
}

enum Open {
    /// Each part can be sent again.
    Parts(Arc<dyn MultipartStore>, MultipartId),
    /// Parts are sent once.
    Plain(Box<dyn MultipartUpload>),
    /// It came to its end.
    Closed,
}

impl Upload {
    /// Begins an upload. `group` owns what aborts it.
    pub(super) async fn begin(
        store: &Arc<Store>,
        key: &Path,
        group: &TaskGroup,
    ) -> Result<Self, Failure> {
        let objects = &store.objects;
        let open = match &objects.parts {
            Some(parts) => {
                let begin = || parts.create_multipart(key);
                Open::Parts(Arc::clone(parts), store.run(Request::Multipart, 0, begin).await?)
            }
            None => {
                let begin = || objects.store.put_multipart(key);
                Open::Plain(store.run(Request::Multipart, 0, begin).await?)
            }
        };
        let (store, key, group) = (Arc::clone(store), key.clone(), group.clone());
        Ok(Self { store, key, group, open, next: 0 })
    }

    /// Sends the next part.
    pub(super) fn send(&mut self, part: Bytes) -> Sending {
        let at = self.next;
        self.next += 1;
        let (store, key) = (Arc::clone(&self.store), self.key.clone());
        let len = part.len() as u64;
        match &mut self.open {
            Open::Parts(parts, id) => {
                let (parts, id) = (Arc::clone(parts), id.clone());
                async move {
                    let send = || {
                        add(&store.counters.bytes_out, len);
                        parts.put_part(&key, &id, at, PutPayload::from(part.clone()))
                    };
                    Ok((at, Some(store.run(Request::Part, len, send).await?)))
                }
                .boxed()
            }
            Open::Plain(upload) => {
                store.counters.request(Request::Part);
                add(&store.counters.bytes_out, len);
                // Here, since the order of the calls is that of the parts.
                let sending = upload.put_part(PutPayload::from(part));
                async move {
                    sending.await.map_err(Failure::of)?;
                    Ok((at, None))
                }
                .boxed()
            }
            Open::Closed => async { Err(Failure::Condition) }.boxed(),
        }
    }

    /// Makes an object of `object_bytes` of the parts, in their order. When this returns it is durable. An object
    /// that `is_new` may be the upload's, if the bucket's answer was lost.
    pub(super) async fn complete(
        mut self,
        parts: Vec<Option<PartId>>,
        object_bytes: u64,
        is_new: impl Fn(&ObjectMeta) -> bool,
    ) -> Result<(), Failure> {
        match &mut self.open {
            Open::Parts(multipart, id) => {
                let parts: Vec<PartId> = parts.into_iter().flatten().collect();
                let complete = || async {
                    match multipart.complete_multipart(&self.key, id, parts.clone()).await {
                        Ok(_) => Ok(()),
                        // Perhaps it was done, and the answer was lost: then the upload is gone.
                        Err(error) => match self.store.objects.store.head(&self.key).await {
                            Ok(meta) if meta.size == object_bytes && is_new(&meta) => Ok(()),
                            _ => Err(error),
                        },
                    }
                };
                self.store.run(Request::Multipart, 0, complete).await?;
            }
            Open::Plain(upload) => {
                self.store.counters.request(Request::Multipart);
                upload.complete().await.map_err(Failure::of)?;
            }
            Open::Closed => {}
        }
        self.open = Open::Closed;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let open = mem::replace(&mut self.open, Open::Closed);
        if matches!(open, Open::Closed) || Handle::try_current().is_err() {
            return;
        }
        let (store, key) = (Arc::clone(&self.store), self.key.clone());
        self.group.spawn("abort upload", async move {
            let aborted = match open {
                Open::Parts(parts, id) => {
                    store.run(Request::Multipart, 0, || parts.abort_multipart(&key, &id)).await
                }
                Open::Plain(mut upload) => upload.abort().await.map_err(Failure::of),
                Open::Closed => Ok(()),
            };
            if let Err(error) = aborted
                && !matches!(error, Failure::Missing)
            {
                tracing::debug!(%key, %error, "an upload stays unfinished: a lifecycle rule is to remove it");
            }
        });
    }
}
