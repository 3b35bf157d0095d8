//! Blobs of a result put into the message itself, where the client asks for that.
//!
//! It is a hint: what does not fit, or cannot be read now, stays a digest.

use std::{collections::HashSet, sync::Arc};

use bbb_digest::Function;
use bbb_reapi::{
    digest,
    proto::reapi::{self, ActionResult, ExecuteResponse},
};
use bbb_storage::{Cas, CasExt as _};
use bytes::Bytes;
use prost::Message as _;

use crate::limits::MAX_REPLY_BYTES;

/// The largest blob that is inlined, in bytes.
const MAX_INLINED_BYTES: u64 = 1 << 20;

/// What a response keeps free of inlined blobs, in bytes.
const KEPT_FREE_BYTES: usize = 64 << 10;

/// What a client wants inlined.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hints {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// The files, by their paths in the result.
    pub(crate) files: Vec<String>,
}

/// What is to be inlined, and from where it comes.
#[derive(Clone, Debug)]
pub(crate) struct Inlining {
    cas: Arc<dyn Cas>,
    function: Function,
    stdout: bool,
    stderr: bool,
    files: HashSet<String>,
}

impl Inlining {
    /// Inlines from `cas` what is hinted at; none where that is nothing.
    pub(crate) fn new(cas: &Arc<dyn Cas>, function: Function, hints: Hints) -> Option<Self> {
        let Hints { stdout, stderr, files } = hints;
        (stdout || stderr || !files.is_empty()).then(|| {
            let files = files.into_iter().collect();
            Self { cas: Arc::clone(cas), function, stdout, stderr, files }
        })
    }

    /// Inlines into an encoded response. One that cannot be read is given back as it is.
    pub(crate) async fn fill_response(&self, response: Bytes) -> Bytes {
        let Ok(mut decoded) = ExecuteResponse::decode(response.clone()) else { return response };
        let Some(result) = &mut decoded.result else { return response };
        self.fill(result).await;
        decoded.encode_to_vec().into()
    }

    /// Inlines into a result: stdout first, then stderr, then files in their order, as far as there is room.
    pub(crate) async fn fill(&self, result: &mut ActionResult) {
        let free = MAX_REPLY_BYTES.saturating_sub(KEPT_FREE_BYTES + result.encoded_len());
        let mut free = free as u64;
        if self.stdout {
            self.read(result.stdout_digest.as_ref(), &mut result.stdout_raw, &mut free).await;
        }
        if self.stderr {
            self.read(result.stderr_digest.as_ref(), &mut result.stderr_raw, &mut free).await;
        }
        for file in &mut result.output_files {
            if self.files.contains(&file.path) {
                self.read(file.digest.as_ref(), &mut file.contents, &mut free).await;
            }
        }
    }

    async fn read(&self, wire: Option<&reapi::Digest>, into: &mut Vec<u8>, free: &mut u64) {
        let Some(Ok(digest)) = wire.map(|wire| digest(self.function, wire)) else { return };
        let fits = digest.size_bytes() <= MAX_INLINED_BYTES.min(*free);
        if !into.is_empty() || digest.is_empty() || !fits {
            return;
        }
        match self.cas.get_bytes(digest, MAX_INLINED_BYTES).await {
            Ok(bytes) => {
                *free -= digest.size_bytes();
                *into = bytes.into();
            }
            Err(error) => tracing::debug!(%digest, %error, "not inlined"),
        }
    }
}
