//! Blobs of a result put into the message itself, where the client asks for that.
//!
//! It is a hint: what does not fit, or cannot be read now, stays a digest.

use std::{collections::HashSet, sync::Arc};

use bbb_digest::Function;
use bbb_reapi::{
    digest,
    proto::reapi::{self, ActionResult, ExecuteRequest, ExecuteResponse},
};
use bbb_storage::{Cas, CasExt as _};
use bytes::Bytes;
use prost::Message as _;

/// The largest answer that inlining makes, in bytes; clients take messages of 4 MiB.
const MAX_INLINED_BYTES: u64 = 3 << 20;

/// What a client wants inlined, and from where it comes.
#[derive(Clone, Debug)]
pub(super) struct Inlining {
    cas: Arc<dyn Cas>,
    function: Function,
    stdout: bool,
    stderr: bool,
    files: HashSet<String>,
}

impl Inlining {
    /// What a request asks for; none where it asks for nothing.
    pub(super) fn of(
        request: &mut ExecuteRequest,
        cas: &Arc<dyn Cas>,
        function: Function,
    ) -> Option<Self> {
        let files: HashSet<_> =
            std::mem::take(&mut request.inline_output_files).into_iter().collect();
        let (stdout, stderr) = (request.inline_stdout, request.inline_stderr);
        (stdout || stderr || !files.is_empty()).then(|| Self {
            cas: Arc::clone(cas),
            function,
            stdout,
            stderr,
            files,
        })
    }

    /// Inlines into an encoded response. One that cannot be read is given back as it is.
    pub(super) async fn fill_response(&self, response: Bytes) -> Bytes {
        let Ok(mut decoded) = ExecuteResponse::decode(response.clone()) else { return response };
        let Some(result) = &mut decoded.result else { return response };
        self.fill(result).await;
        decoded.encode_to_vec().into()
    }

    /// Inlines into a result: stdout first, then stderr, then files in their order, as far as there is room.
    pub(super) async fn fill(&self, result: &mut ActionResult) {
        let mut room = MAX_INLINED_BYTES.saturating_sub(result.encoded_len() as u64);
        if self.stdout {
            self.read(result.stdout_digest.as_ref(), &mut result.stdout_raw, &mut room).await;
        }
        if self.stderr {
            self.read(result.stderr_digest.as_ref(), &mut result.stderr_raw, &mut room).await;
        }
        for file in &mut result.output_files {
            if self.files.contains(&file.path) {
                self.read(file.digest.as_ref(), &mut file.contents, &mut room).await;
            }
        }
    }

    async fn read(&self, wire: Option<&reapi::Digest>, into: &mut Vec<u8>, room: &mut u64) {
        let Some(Ok(digest)) = wire.map(|wire| digest(self.function, wire)) else { return };
        if !into.is_empty() || digest.is_empty() || digest.size_bytes() > *room {
            return;
        }
        match self.cas.get_bytes(digest, *room).await {
            Ok(bytes) => {
                *room -= digest.size_bytes();
                *into = bytes.into();
            }
            Err(error) => tracing::debug!(%digest, %error, "not inlined"),
        }
    }
}
