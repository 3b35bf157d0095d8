//! `build.bazel.remote.execution.v2.Execution`: actions are admitted once, then watched.
//!
//! An operation is named `{instance}/operations/{id}`, without the first part where the instance has no
//! name; the id is the scheduler's, so that any node that reaches the scheduler finds it again. A result
//! from the action cache comes as an operation that has ended already and that nobody knows afterwards. The
//! cache is asked before there is an operation, so none is ever in the stage `CACHE_CHECK`.
//!
//! What goes wrong before there is an operation ends the call; what goes wrong later stands in
//! `ExecuteResponse.status` and never in `Operation.error`, as the comment of `Execute` asks for, cancelling
//! included.

mod admission;
mod demand;
pub(crate) mod message;
mod parts;
mod steering;

use std::{sync::Arc, time::Duration};

use bbb_reapi::{
    RequestMetadata,
    proto::{
        longrunning::Operation,
        reapi::{
            ExecuteRequest, WaitExecutionRequest,
            execution_server::{self, ExecutionServer},
        },
    },
};
use bbb_scheduler::{Dispatch, End, OperationState, Stage, Watch};
use bbb_storage::Instances;
use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio::time;
use tonic::{Extensions, Request, Response, Status};

use self::{
    admission::{Admission, Verdict},
    message::OperationName,
};
use crate::{
    inline::Inlining,
    status::{self, IntoStatus as _},
};

/// The largest request that is taken, in bytes; only lists of files to be inlined make one large.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// How often a client hears of an operation of which there is nothing new, so that neither side nor what
/// lies between takes the other for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What the service may do.
#[derive(Clone, Copy, Debug)]
pub struct ExecutionSettings {
    /// The timeout of actions that give none, and the longest that may be asked for.
    pub action_timeout: Duration,
    /// Whether there may be workers at all: some here, or other nodes.
    pub enabled: bool,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Execution {
    instances: Arc<Instances>,
    dispatch: Arc<dyn Dispatch>,
    settings: ExecutionSettings,
}

type Operations = BoxStream<'static, Result<Operation, Status>>;

impl Execution {
    /// Admits actions of `instances` and hands them to `dispatch`.
    pub fn new(
        instances: Arc<Instances>,
        dispatch: Arc<dyn Dispatch>,
        settings: ExecutionSettings,
    ) -> Self {
        Self { instances, dispatch, settings }
    }

    /// The service as a server takes it.
    pub fn into_server(self) -> ExecutionServer<Self> {
        ExecutionServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }
}

#[tonic::async_trait]
impl execution_server::Execution for Execution {
    type ExecuteStream = Operations;
    type WaitExecutionStream = Operations;

    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<Operations>, Status> {
        let (_, extensions, request) = request.into_parts();
        let admission = Admission { instances: &self.instances, settings: self.settings };
        let operations = match admission.admit(request, || invocation(&extensions)).await? {
            Verdict::Answered(operation) => stream::iter([Ok(*operation)]).boxed(),
            Verdict::Admitted(submission, inlining) => {
                let watch = self.dispatch.submit(*submission).await;
                updates(watch.map_err(|error| error.into_status())?, inlining)
            }
        };
        Ok(Response::new(operations))
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<Operations>, Status> {
        let watch = find(&*self.dispatch, &request.into_inner().name).await?;
        Ok(Response::new(updates(watch, None)))
    }
}

/// The operation of that name.
pub(crate) async fn find(dispatch: &dyn Dispatch, name: &str) -> Result<Watch, Status> {
    let unknown = || {
        let shown = &name[..name.floor_char_boundary(200)];
        status::not_found(format!("no operation {shown:?} is known here: call Execute again"))
    };
    let name = OperationName::parse(name).ok_or_else(unknown)?;
    let found = dispatch.find(name.id).await.map_err(|error| error.into_status())?;
    let mut watch = found.ok_or_else(unknown)?;
    // Instances are walls: another's operation is as good as none.
    match watch.current().key.instance == name.instance {
        true => Ok(watch),
        false => Err(unknown()),
    }
}

/// The build that a request belongs to; empty where the client does not say. The doors put what it says
/// beside the request.
fn invocation(extensions: &Extensions) -> String {
    let metadata = extensions.get::<RequestMetadata>();
    metadata.map(|metadata| metadata.invocation.clone()).unwrap_or_default()
}

/// An operation as it goes on, the state that it is in first, until it has ended. The watch is dropped with
/// the stream.
fn updates(watch: Watch, inlining: Option<Inlining>) -> Operations {
    let begin = Update { watch, inlining, next: Next::Current };
    stream::unfold(begin, |mut update| async move {
        let state = match update.next {
            Next::Current => Some(update.watch.current()),
            Next::Changed => update.changed().await,
            Next::End => return None,
        };
        let Some(state) = state else {
            update.next = Next::End;
            let gone = "the scheduler is gone or has forgotten the operation: call Execute again";
            return Some((Err(status::unavailable(gone)), update));
        };
        update.next = if state.stage.is_completed() { Next::End } else { Next::Changed };
        let operation = update.operation(&state).await;
        Some((Ok(operation), update))
    })
    .boxed()
}

struct Update {
    watch: Watch,
    inlining: Option<Inlining>,
    next: Next,
}

enum Next {
    Current,
    Changed,
    End,
}

impl Update {
    /// The next state, or the same one again after a while.
    async fn changed(&mut self) -> Option<Arc<OperationState>> {
        match time::timeout(KEEP_ALIVE, self.watch.changed()).await {
            Ok(state) => state,
            Err(_) => Some(self.watch.current()),
        }
    }

    async fn operation(&self, state: &OperationState) -> Operation {
        match (&self.inlining, &state.stage) {
            (Some(inlining), Stage::Completed { end: End::Decided(response), .. }) => {
                let response = inlining.fill_response(response.clone()).await;
                message::decided(state, response)
            }
            _ => message::operation(state),
        }
    }
}

#[cfg(test)]
mod tests;
