//! `google.bytestream.ByteStream`: blobs as streams, in both directions.
//!
//! The comments of the service and those of the Remote Execution API's `ContentAddressableStorage` are the
//! rules. Payloads pass through without being copied; no more of a blob is in memory than one message in
//! each direction.

use std::sync::Arc;

use axum::{Router, routing::any};
use bbb_reapi::{
    Invalid, LogWriteResource, Resource, UploadResource,
    proto::bytestream::{QueryWriteStatusRequest, QueryWriteStatusResponse, WriteResponse},
};
use bbb_storage::Logs;
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use crate::{
    Door,
    door::undecodable,
    status::{IntoStatus as _, not_found},
    wire::{Message, Request, Response, unary},
};

mod logs;
mod message;
mod read;
mod uploads;
mod write;

pub use uploads::Uploads;

/// The service's name.
pub const NAME: &str = "google.bytestream.ByteStream";

/// The routes of the service.
pub fn routes(door: Door, uploads: Arc<Uploads>, logs: Option<Arc<dyn Logs>>) -> Router {
    let service = Arc::new(ByteStream { door, uploads, logs });
    let (reader, writer, asker) = (Arc::clone(&service), Arc::clone(&service), service);
    Router::new()
        .route(
            &format!("/{NAME}/Read"),
            any(move |request: Request| async move { reader.read(request).await }),
        )
        .route(
            &format!("/{NAME}/Write"),
            any(move |request: Request| async move { writer.write(request).await }),
        )
        .route(
            &format!("/{NAME}/QueryWriteStatus"),
            any(move |request: Request| async move { asker.query(request).await }),
        )
}

struct ByteStream {
    door: Door,
    uploads: Arc<Uploads>,
    /// None where there are no logs.
    logs: Option<Arc<dyn Logs>>,
}

impl ByteStream {
    async fn read(&self, request: Request) -> Response {
        self.door
            .wire
            .one_message(request, async |message, deadline| {
                read::read(&self.door, self.logs.as_deref(), message, deadline).await
            })
            .await
    }

    async fn write(&self, request: Request) -> Response {
        self.door
            .wire
            .stream(request, async |requests, _| {
                let committed_size =
                    write::write(&self.door, &self.uploads, self.logs.as_deref(), requests).await?;
                let response = WriteResponse { committed_size };
                Ok(unary(Message::encoded(response.encode_to_vec())))
            })
            .await
    }

    async fn query(&self, request: Request) -> Response {
        self.door
            .wire
            .unary(request, async |message| {
                let response = self.write_status(message).await?;
                Ok(Message::encoded(response.encode_to_vec()))
            })
            .await
    }

    async fn write_status(&self, message: Bytes) -> Result<QueryWriteStatusResponse, Status> {
        let request = QueryWriteStatusRequest::decode(message).map_err(undecodable)?;
        let upload = match write_resource(&request.resource_name)? {
            Written::Blob(upload) => upload,
            Written::Log(log) => {
                let logs = self.logs.as_deref().ok_or_else(no_logs)?;
                return logs::write_status(logs, &log).await;
            }
        };
        let stores = self.door.instances.get(&upload.blob.instance);
        let missing = stores.cas.find_missing(&[upload.blob.digest]).await;
        if missing.map_err(|error| error.into_status())?.is_empty() {
            let committed_size = write::committed_early(&upload);
            return Ok(QueryWriteStatusResponse { committed_size, complete: true });
        }
        match self.uploads.committed(&upload) {
            Some(committed) => Ok(QueryWriteStatusResponse {
                committed_size: i64::try_from(committed).unwrap_or(i64::MAX),
                complete: false,
            }),
            None => Err(not_found("no such upload is known here: begin it at offset 0")),
        }
    }
}

/// What is written.
enum Written {
    Blob(UploadResource),
    Log(LogWriteResource),
}

fn no_logs() -> Status {
    not_found("there are no logs here")
}

/// Reads the name of what is written.
fn write_resource(name: &str) -> Result<Written, Status> {
    match Resource::parse(name).map_err(|invalid| invalid.into_status())? {
        Resource::Upload(upload) => Ok(Written::Blob(upload)),
        Resource::LogWrite(log) => Ok(Written::Log(log)),
        Resource::Log(_) => {
            let what = "is the name by which a log is read; it is written by the other one";
            Err(Invalid::new("resource_name", what).into_status())
        }
        Resource::Blob(_) => {
            let what = "names a blob to be read; to write one, uploads/{uuid}/ stands before it";
            Err(Invalid::new("resource_name", what).into_status())
        }
    }
}
