//! What a build does for one action that was never run: ask what is missing, upload, execute, download.

use std::sync::Arc;

use async_trait::async_trait;
use bbb_reapi::proto::reapi::{Directory, FileNode};

use super::{Maker, execute};
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::payload::{Blob, Mould, Texture};
use crate::target::Target;
use crate::workloads::bytestream::read_identity;

/// Size of a source file, and so of the output, which is a copy of it.
const SOURCE_BYTES: usize = 8 << 10;
/// Inputs that are there already, as headers and tools are.
const HEADERS: usize = 20;
/// 20 ms of work, then the output.
const SCRIPT: &str = "sleep 0.02; cat source > output";

/// Each call is one step of a build.
pub(super) struct Build(pub(super) Maker);

struct BuildCalls {
    maker: Maker,
    mould: Mould,
    command: Blob,
    headers: Vec<Blob>,
}

#[async_trait]
impl Workload for Build {
    async fn prepare(&self, target: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let path = format!("export PATH=/usr/bin:/bin; {SCRIPT}");
        let command = self.0.command(&["/bin/sh", "-c", &path], &["output"]);
        let headers: Vec<Blob> = (0..HEADERS).map(|_| self.0.source.fresh_blob()).collect();
        target.upload(&headers).await?;
        target.upload(std::slice::from_ref(&command)).await?;
        let mould = self.0.source.mould(Texture::Half, SOURCE_BYTES);
        Ok(Arc::new(BuildCalls { maker: self.0.clone(), mould, command, headers }))
    }
}

#[async_trait]
impl Calls for BuildCalls {
    async fn call(&self, target: &Target, _: u64) -> Result<u64, Failure> {
        let source = self.mould.blob();
        let node = |name: String, blob: &Blob| FileNode {
            name,
            digest: Some(blob.digest.clone()),
            ..FileNode::default()
        };
        let mut files: Vec<FileNode> = self
            .headers
            .iter()
            .enumerate()
            .map(|(index, blob)| node(format!("header-{index:02}"), blob))
            .collect();
        files.push(node("source".to_owned(), &source));
        let root = self.maker.blob(&Directory { files, ..Directory::default() });
        let action = self.maker.action(&self.command, &root.digest);

        let new = [&source, &root, &action];
        let there = self.headers.iter().chain([&self.command]);
        let asked = new.into_iter().chain(there).map(|blob| blob.digest.clone()).collect();
        let missing = target.find_missing(asked).await?;
        if missing.len() != new.len() {
            return Err(Failure::wrong(format!("{} blobs missing, not 3", missing.len())));
        }
        for blob in new {
            target.write(blob).await?;
        }
        let response = execute(target, &action.digest).await?;
        let output = response
            .result
            .and_then(|result| result.output_files.into_iter().next())
            .ok_or_else(|| Failure::wrong("no output"))?;
        if output.digest.as_ref() != Some(&source.digest) {
            return Err(Failure::wrong("the output is not a copy of the source"));
        }
        read_identity(target, &source).await?;
        let moved: usize = new.iter().map(|blob| blob.len()).sum::<usize>() + SOURCE_BYTES;
        Ok(moved as u64)
    }
}
