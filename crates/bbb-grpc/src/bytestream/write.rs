//! `ByteStream.Write`.

use std::{sync::Arc, time::Duration};

use bbb_reapi::{Compressor, Invalid, UploadResource};
use bbb_storage::{Cas, Encoding, Logs, Source, SourceContent};
use futures::FutureExt as _;
use tokio::time::timeout;
use tonic::Status;

use super::{
    Written,
    message::WriteMessage,
    no_logs,
    uploads::{Active, Fed, Uploads},
    write_resource,
};
use crate::{
    Door, Reservation,
    door::undecodable,
    status::{IntoStatus as _, aborted, deadline_exceeded},
    wire::Requests,
};

/// Pieces smaller than this, in bytes, are put together before a store gets them.
const SMALL_PIECE_BYTES: usize = 128 << 10;

/// How long a client may pause between two messages of an upload.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Receives an upload: the `committed_size` of its end.
pub(super) async fn write(
    door: &Door,
    uploads: &Arc<Uploads>,
    logs: Option<&dyn Logs>,
    mut requests: Requests,
) -> Result<i64, Status> {
    let Some(first) = next(&mut requests).await? else {
        return Err(Invalid::new("message", "is missing: the stream is empty").into_status());
    };
    let upload = match write_resource(&first.resource_name)? {
        Written::Blob(upload) => upload,
        Written::Log(log) => {
            let logs = logs.ok_or_else(no_logs)?;
            return super::logs::write(logs, &log, first, requests).await;
        }
    };
    door.check_size(&upload.blob.digest).map_err(|invalid| invalid.into_status())?;
    let offset = u64::try_from(first.write_offset)
        .map_err(|_| Invalid::new("write_offset", "is negative").into_status())?;
    let cas = door.instances.get(&upload.blob.instance).cas;
    if first.finish_write && offset == 0 {
        let _held = match upload.blob.compressor {
            Compressor::Identity => None,
            Compressor::Zstd => Some(uploads.reserve(&upload, &mut requests).await?),
        };
        return write_whole(&cas, &upload, first, requests).await;
    }
    let missing = cas.find_missing(&[upload.blob.digest]).await;
    if missing.map_err(|error| error.into_status())?.is_empty() {
        return Ok(committed_early(&upload));
    }
    let room = match offset {
        0 => uploads.reserve(&upload, &mut requests).await?,
        // What broke off has its room.
        _ => Reservation::none(),
    };
    let active = uploads.begin(&upload, offset, &cas, room)?;
    Writing { name: first.resource_name.clone(), upload, active, next_offset: offset }
        .run(first, requests)
        .await
}

/// What is said of a blob that is there before an upload has ended.
pub(super) fn committed_early(upload: &UploadResource) -> i64 {
    match upload.blob.compressor {
        // Sizes are at most 1 TiB.
        Compressor::Identity => i64::try_from(upload.blob.digest.size_bytes()).unwrap_or(i64::MAX),
        Compressor::Zstd => -1,
    }
}

pub(super) async fn next(requests: &mut Requests) -> Result<Option<WriteMessage>, Status> {
    let message = requests.next_message().await?;
    message.map(WriteMessage::decode).transpose().map_err(undecodable)
}

/// An upload in one message, which most are.
async fn write_whole(
    cas: &Arc<dyn Cas>,
    upload: &UploadResource,
    message: WriteMessage,
    mut requests: Requests,
) -> Result<i64, Status> {
    let received = message.data.len() as u64;
    check_received(upload, received, true)?;
    let encoding = match upload.blob.compressor {
        Compressor::Identity => Encoding::Identity,
        Compressor::Zstd => Encoding::Zstd,
    };
    let content = SourceContent::Bytes(message.data.into_bytes());
    let put = cas.put(upload.blob.digest, Source { encoding, content });
    put.await.map_err(|error| error.into_status())?;
    ended(&mut requests)?;
    Ok(received.cast_signed())
}

/// Refuses what has come after the message that was said to be the last.
fn ended(requests: &mut Requests) -> Result<(), Status> {
    match next(requests).now_or_never() {
        Some(Ok(Some(_))) => Err(after_finish()),
        _ => Ok(()),
    }
}

fn after_finish() -> Status {
    Invalid::new("finish_write", "was true before, but another message came").into_status()
}

/// Refuses more bytes than the blob has, and an end with fewer. How many bytes a compressed blob has is for
/// the store to find out.
fn check_received(upload: &UploadResource, received: u64, finished: bool) -> Result<(), Status> {
    let size_bytes = upload.blob.digest.size_bytes();
    let wrong = received > size_bytes || (finished && received < size_bytes);
    match upload.blob.compressor {
        Compressor::Identity if wrong => {
            let what = format!("{received} bytes came, but the resource name says {size_bytes}");
            Err(Invalid::new("data", what).into_status())
        }
        _ => Ok(()),
    }
}

/// An upload in several messages.
struct Writing {
    name: String,
    upload: UploadResource,
    active: Active,
    next_offset: u64,
}

/// How far a message brought an upload.
enum Step {
    More,
    Finished,
    Over(bbb_storage::Result<()>),
}

impl Writing {
    async fn run(mut self, first: WriteMessage, mut requests: Requests) -> Result<i64, Status> {
        let mut message = first;
        loop {
            // What is wrong ends the upload for good; a call that breaks off leaves it as it is.
            let step = match self.check(&message) {
                Ok(()) => self.take(message).await,
                Err(status) => {
                    self.active.over();
                    return Err(status);
                }
            };
            match step {
                Step::More => {}
                Step::Finished => return self.finish(requests).await,
                Step::Over(over) => return self.early(over),
            }
            message = match self.wait(&mut requests).await {
                Waited::Message(message) => message,
                Waited::Over(over) => return self.early(over),
                Waited::Ended(Ok(())) => return Ok(self.partial()),
                Waited::Ended(Err(status)) => return Err(status),
            };
        }
    }

    /// Checks what each message must say.
    fn check(&self, message: &WriteMessage) -> Result<(), Status> {
        if !message.resource_name.is_empty() && message.resource_name != self.name {
            let what = "differs from that of the first message";
            return Err(Invalid::new("resource_name", what).into_status());
        }
        if u64::try_from(message.write_offset) != Ok(self.next_offset) {
            let what = format!("is {}, but {} follows", message.write_offset, self.next_offset);
            return Err(Invalid::new("write_offset", what).into_status());
        }
        let received = self.next_offset + message.data.len() as u64;
        check_received(&self.upload, received, message.finish_write)
    }

    /// Hands the data of a message to the store.
    async fn take(&mut self, message: WriteMessage) -> Step {
        self.next_offset += message.data.len() as u64;
        for piece in message.data.into_pieces(SMALL_PIECE_BYTES) {
            let Some(upload) = self.active.upload() else { return Step::Over(Ok(())) };
            if let Fed::Over(over) = upload.feed(piece).await {
                return Step::Over(over);
            }
        }
        self.active.note();
        match message.finish_write {
            true => Step::Finished,
            false => Step::More,
        }
    }

    /// Waits for the next message, for a store that has the blob meanwhile, or for another call that goes on.
    async fn wait(&mut self, requests: &mut Requests) -> Waited {
        let wanted = self.active.wanted();
        let Some(upload) = self.active.upload() else { return Waited::Over(Ok(())) };
        tokio::select! {
            biased;
            over = upload.over() => Waited::Over(over),
            message = timeout(MAX_PAUSE, next(requests)) => match message {
                Ok(Ok(Some(message))) => Waited::Message(message),
                Ok(Ok(None)) => Waited::Ended(Ok(())),
                Ok(Err(status)) => Waited::Ended(Err(status)),
                Err(_) => {
                    let what = "nothing came for minutes: go on where QueryWriteStatus says";
                    Waited::Ended(Err(deadline_exceeded(what)))
                }
            },
            () = wanted => Waited::Ended(Err(aborted("another call goes on with this upload"))),
        }
    }

    async fn finish(mut self, mut requests: Requests) -> Result<i64, Status> {
        let received = self.next_offset;
        let over = match self.active.upload() {
            Some(upload) => upload.finish().await,
            None => Ok(()),
        };
        self.active.over();
        over.map_err(|error| error.into_status())?;
        ended(&mut requests)?;
        Ok(received.cast_signed())
    }

    /// The store is over before the last message.
    fn early(self, over: bbb_storage::Result<()>) -> Result<i64, Status> {
        let committed = committed_early(&self.upload);
        self.active.over();
        over.map(|()| committed).map_err(|error| error.into_status())
    }

    /// The stream ended without the last message: what came is kept.
    fn partial(self) -> i64 {
        match self.upload.blob.compressor {
            Compressor::Identity => self.next_offset.cast_signed(),
            Compressor::Zstd => 0,
        }
    }
}

enum Waited {
    Message(WriteMessage),
    Over(bbb_storage::Result<()>),
    Ended(Result<(), Status>),
}
