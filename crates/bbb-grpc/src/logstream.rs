//! `build.bazel.remote.logstream.v1.LogStreamService`: logs that clients make. They are read and written by `ByteStream`.

use std::sync::Arc;

use bbb_reapi::{
    Invalid,
    proto::logstream::{
        CreateLogStreamRequest, LogStream,
        log_stream_service_server::{self, LogStreamServiceServer},
    },
};
use bbb_storage::Logs;
use tonic::{Request, Response, Status};

use crate::status::IntoStatus as _;

/// The service.
#[derive(Clone, Debug)]
pub struct LogStreams {
    logs: Arc<dyn Logs>,
}

impl LogStreams {
    /// Makes logs in `logs`.
    pub fn new(logs: Arc<dyn Logs>) -> LogStreamServiceServer<Self> {
        LogStreamServiceServer::new(Self { logs })
    }
}

#[tonic::async_trait]
impl log_stream_service_server::LogStreamService for LogStreams {
    async fn create_log_stream(
        &self,
        request: Request<CreateLogStreamRequest>,
    ) -> Result<Response<LogStream>, Status> {
        // The parent of a log is an instance.
        let parent = request.into_inner().parent;
        let instance = parent.parse();
        let instance = instance.map_err(|error: bbb_digest::InstanceNameError| {
            Invalid::new("parent", error).into_status()
        })?;
        let made = self.logs.create(&instance).await.map_err(|error| error.into_status())?;
        Ok(Response::new(LogStream {
            name: made.log.to_string(),
            write_resource_name: made.to_string(),
        }))
    }
}
