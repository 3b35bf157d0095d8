//! `google.longrunning.Operations`, over the operations of `Execution`.
//!
//! Instances are walls here too: what is not under the instance that a name begins with does not exist. A
//! cancelled operation carries CANCELLED in its `ExecuteResponse`, since the Remote Execution API forbids
//! `Operation.error`.

use std::{sync::Arc, time::Duration};

use bbb_reapi::{
    Invalid, duration,
    proto::{
        longrunning::{
            CancelOperationRequest, DeleteOperationRequest, GetOperationRequest,
            ListOperationsRequest, ListOperationsResponse, Operation, WaitOperationRequest,
            operations_server::{self, OperationsServer},
        },
        protobuf::Empty,
    },
};
use bbb_scheduler::{Dispatch, Filter, OperationId, Page, StageKind};
use prost::Message as _;
use tokio::time;
use tonic::{Request, Response, Status};

use crate::{
    execution::{
        find,
        message::{self, parse_parent},
    },
    status::{self, IntoStatus as _},
};

/// The largest request that is taken, in bytes.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// How many operations a page has where the client does not say.
const DEFAULT_PAGE: usize = 100;

/// How many operations a page may have.
const MAX_PAGE: usize = 1000;

/// How many bytes of operations a page may have, unless the first alone has more.
const MAX_PAGE_BYTES: usize = 2 << 20;

/// How long `WaitOperation` waits at the most, as its comment allows.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// The service.
#[derive(Clone, Debug)]
pub struct Operations {
    dispatch: Arc<dyn Dispatch>,
}

impl Operations {
    /// Shows the operations of `dispatch`.
    pub fn new(dispatch: Arc<dyn Dispatch>) -> Self {
        Self { dispatch }
    }

    /// The service as a server takes it.
    pub fn into_server(self) -> OperationsServer<Self> {
        OperationsServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    async fn list(
        &self,
        request: &ListOperationsRequest,
    ) -> Result<ListOperationsResponse, Status> {
        if request.return_partial_success {
            return Err(status::unimplemented("return_partial_success is not supported"));
        }
        let (filter, page) = parse(request).map_err(|invalid| invalid.into_status())?;
        let listing =
            self.dispatch.list(filter, page).await.map_err(|error| error.into_status())?;
        let mut response = ListOperationsResponse::default();
        let (mut bytes, mut next) = (0, listing.next);
        let mut last = None;
        for state in &listing.operations {
            let operation = message::operation(state);
            bytes += operation.encoded_len();
            if bytes > MAX_PAGE_BYTES && last.is_some() {
                next = last;
                break;
            }
            response.operations.push(operation);
            last = Some(state.id);
        }
        response.next_page_token = next.map(|id| id.to_string()).unwrap_or_default();
        Ok(response)
    }
}

#[tonic::async_trait]
impl operations_server::Operations for Operations {
    /// `name` is `{instance}/operations`, or the instance alone. `filter` is empty, `stage=QUEUED`,
    /// `stage=EXECUTING`, `stage=COMPLETED` or `done=true`.
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.list(request.get_ref()).await.map(Response::new)
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let mut watch = find(&*self.dispatch, &request.get_ref().name).await?;
        Ok(Response::new(message::operation(&watch.current())))
    }

    /// An operation that has not ended is forgotten once it has: others may watch it.
    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        let mut watch = find(&*self.dispatch, &request.get_ref().name).await?;
        let id = watch.current().id;
        self.dispatch.forget(id).await.map_err(|error| error.into_status())?;
        Ok(Response::new(Empty {}))
    }

    /// Ends the operation for everyone who watches it, also those whose equal action joined it.
    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Empty>, Status> {
        let mut watch = find(&*self.dispatch, &request.get_ref().name).await?;
        let id = watch.current().id;
        self.dispatch.cancel(id).await.map_err(|error| error.into_status())?;
        Ok(Response::new(Empty {}))
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        let timeout = request.timeout.as_ref().map(duration).transpose();
        let timeout = timeout.map_err(|invalid| invalid.within("timeout").into_status())?;
        let mut watch = find(&*self.dispatch, &request.name).await?;
        let wait = async {
            let mut state = watch.current();
            while !state.stage.is_completed() {
                match watch.changed().await {
                    Some(next) => state = next,
                    None => return,
                }
            }
        };
        // Whether it has ended or not, the state that it is in then is the answer.
        let _ = time::timeout(timeout.unwrap_or(MAX_WAIT).min(MAX_WAIT), wait).await;
        Ok(Response::new(message::operation(&watch.current())))
    }
}

fn parse(request: &ListOperationsRequest) -> Result<(Filter, Page), Invalid> {
    let name = request.name.as_str();
    let instance = match parse_parent(name) {
        Some(instance) => instance,
        None => (name.parse())
            .map_err(|error: bbb_digest::InstanceNameError| Invalid::new("name", error))?,
    };
    let stage = parse_filter(&request.filter)?;
    let size = match usize::try_from(request.page_size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => return Err(Invalid::new("page_size", "is negative")),
    };
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(
            u128::from_str_radix(token, 16)
                .map(OperationId)
                .map_err(|_| Invalid::new("page_token", "is none that ListOperations gave"))?,
        ),
    };
    Ok((Filter { instance, stage }, Page { after, size }))
}

fn parse_filter(filter: &str) -> Result<Option<StageKind>, Invalid> {
    let compact: String = filter
        .chars()
        .filter(|character| !character.is_whitespace() && *character != '"')
        .collect();
    match compact.as_str() {
        "" => Ok(None),
        "stage=QUEUED" => Ok(Some(StageKind::Queued)),
        "stage=EXECUTING" => Ok(Some(StageKind::Executing)),
        "stage=COMPLETED" | "done=true" => Ok(Some(StageKind::Completed)),
        _ => {
            let what =
                "is not known; there are stage=QUEUED, stage=EXECUTING, stage=COMPLETED, done=true";
            Err(Invalid::new("filter", what))
        }
    }
}
