//! Logs by `ByteStream`: read while they grow, and appended to.

use std::time::Duration;

use bbb_reapi::{
    Invalid, LogResource, LogWriteResource,
    proto::bytestream::{QueryWriteStatusResponse, ReadRequest},
};
use bbb_storage::{LogPiece, Logs};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::{
    message::WriteMessage,
    read::{DATA, MAX_DATA_BYTES},
    write::next,
};
use crate::{
    status::{self, IntoStatus},
    wire::{Message, Requests, Response, streaming},
};

/// How long a writer may pause between two messages.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// What a log that says nothing says, so that who follows it knows that its node lives: a message without data.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);

/// Answers a read: what there is, and what comes, until the log has ended or the limit is met.
pub(super) async fn read(
    logs: &dyn Logs,
    log: &LogResource,
    request: &ReadRequest,
    deadline: Option<Instant>,
) -> Result<Response, Status> {
    let offset = u64::try_from(request.read_offset)
        .map_err(|_| status::out_of_range("read_offset is negative"))?;
    let limit = u64::try_from(request.read_limit)
        .map_err(|_| Invalid::new("read_limit", "is negative").into_status())?;
    let left = if limit == 0 { u64::MAX } else { limit };
    let bytes = logs.read(log, offset).await.map_err(|error| error.into_status())?;
    let begin = (bytes, Bytes::new(), left);
    let messages = stream::try_unfold(begin, |(mut bytes, mut piece, mut left)| async move {
        if left == 0 {
            return Ok(None);
        }
        if piece.is_empty() {
            piece = match timeout(SIGN_OF_LIFE_EVERY, bytes.next()).await {
                Err(_) => Bytes::new(),
                Ok(Some(piece)) => piece.map_err(|error| error.into_status())?,
                Ok(None) => return Ok(None),
            };
        }
        let fits = usize::try_from(left).unwrap_or(usize::MAX).min(MAX_DATA_BYTES);
        let data = piece.split_to(piece.len().min(fits));
        left -= data.len() as u64;
        Ok(Some((Message::of_bytes(DATA, data), (bytes, piece, left))))
    });
    Ok(streaming(messages, deadline))
}

/// Receives what a call appends: how much of the log is there then.
pub(super) async fn write(
    logs: &dyn Logs,
    log: &LogWriteResource,
    first: WriteMessage,
    mut requests: Requests,
) -> Result<i64, Status> {
    let name = first.resource_name.clone();
    let mut message = first;
    loop {
        if !message.resource_name.is_empty() && message.resource_name != name {
            let what = "differs from that of the first message";
            return Err(Invalid::new("resource_name", what).into_status());
        }
        let offset = u64::try_from(message.write_offset)
            .map_err(|_| Invalid::new("write_offset", "is negative").into_status())?;
        let is_last = message.finish_write;
        let piece = LogPiece { offset, data: message.data.into_bytes(), is_last };
        let written = logs.append(log, piece).await.map_err(|error| error.into_status())?;
        let committed = i64::try_from(written.committed).unwrap_or(i64::MAX);
        if is_last {
            return Ok(committed);
        }
        message = match timeout(MAX_PAUSE, next(&mut requests)).await {
            Ok(next) => match next? {
                Some(message) => message,
                None => return Ok(committed),
            },
            Err(_) => {
                let what = "nothing came for minutes: go on where QueryWriteStatus says";
                return Err(status::deadline_exceeded(what));
            }
        };
    }
}

/// How far a log is.
pub(super) async fn write_status(
    logs: &dyn Logs,
    log: &LogWriteResource,
) -> Result<QueryWriteStatusResponse, Status> {
    let written = logs.written(log).await.map_err(|error| error.into_status())?;
    Ok(QueryWriteStatusResponse {
        committed_size: i64::try_from(written.committed).unwrap_or(i64::MAX),
        complete: written.has_ended,
    })
}
