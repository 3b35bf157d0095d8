//! GetTree of a large tree.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bbb_reapi::proto::reapi::{self as reapi, Directory, DirectoryNode, FileNode};
use bytes::Bytes;
use prost::Message;

use super::Row;
use crate::client::decode;
use crate::digest::Digest;
use crate::digest::OnTheWire as _;
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::payload::{Blob, Source};
use crate::target::Target;
use crate::wire::{Messages, Outgoing};

const DIRECTORIES: usize = 2_000;
const FILES_EACH: usize = 10;
/// Children of a directory: number `n` has those from `n * FAN_OUT + 1` on.
const FAN_OUT: usize = 12;
/// Every answer is counted, every so-manieth is hashed.
const HASH_EVERY: u64 = 16;

const GET_TREE: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree";

/// GetTreeResponse with its directories left encoded: a message field has the same form as bytes.
#[derive(Clone, PartialEq, Message)]
struct EncodedTree {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    directories: Vec<Bytes>,
    #[prost(string, tag = "2")]
    next_page_token: String,
}

struct GetTree {
    blobs: Arc<Vec<Blob>>,
}

pub(super) fn rows(source: &Arc<Source>) -> Vec<Row> {
    let workload = GetTree { blobs: Arc::new(directories(source)) };
    vec![Row::new("get-tree", "GetTree of 2,000 directories, 20,000 files", workload)]
}

/// The directories, the root first. Their files are named only: GetTree does not look at them.
fn directories(source: &Source) -> Vec<Blob> {
    let mut digests: Vec<Option<Digest>> = vec![None; DIRECTORIES];
    let mut blobs = Vec::with_capacity(DIRECTORIES);
    for number in (0..DIRECTORIES).rev() {
        let file = |index| FileNode {
            name: format!("file-{index:02}.txt"),
            digest: Some(source.fresh_blob().digest),
            ..FileNode::default()
        };
        let first = number * FAN_OUT + 1;
        let children = digests.iter().enumerate().skip(first).take(FAN_OUT);
        let directory = Directory {
            files: (0..FILES_EACH).map(file).collect(),
            directories: children
                .map(|(child, digest)| DirectoryNode {
                    name: format!("directory-{child:04}"),
                    digest: digest.clone(),
                })
                .collect(),
            ..Directory::default()
        };
        let blob = Blob::whole(source.function(), directory.encode_to_vec());
        digests[number] = Some(blob.digest.clone());
        blobs.push(blob);
    }
    blobs.reverse();
    blobs
}

#[async_trait]
impl Workload for GetTree {
    async fn prepare(&self, target: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        target.upload(&self.blobs).await?;
        Ok(Arc::new(Self { blobs: Arc::clone(&self.blobs) }))
    }
}

#[async_trait]
impl Calls for GetTree {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let mut request = reapi::GetTreeRequest {
            instance_name: target.speech.instance.clone(),
            root_digest: self.blobs.first().map(|root| root.digest.clone()),
            page_size: 0,
            page_token: String::new(),
            digest_function: target.speech.function.wire(),
        };
        let mut found = Vec::with_capacity(DIRECTORIES);
        loop {
            let mut answer = target.client.call(GET_TREE, Outgoing::message(&request)?).await?;
            let mut messages = Messages::default();
            let mut token = String::new();
            while let Some(message) = answer.message(&mut messages).await? {
                let page: EncodedTree = decode(message)?;
                found.extend(page.directories);
                token = page.next_page_token;
            }
            if token.is_empty() {
                break;
            }
            if found.len() > DIRECTORIES || token == request.page_token {
                return Err(Failure::wrong("pages without end"));
            }
            request.page_token = token;
        }
        if found.len() != DIRECTORIES {
            return Err(Failure::wrong(format!("{} directories, not {DIRECTORIES}", found.len())));
        }
        if index.is_multiple_of(HASH_EVERY) {
            self.compare(target, &found)?;
        }
        Ok(found.iter().map(|directory| directory.len() as u64).sum())
    }
}

impl GetTree {
    /// Refuses other directories than those of the tree; their order is the server's to choose.
    fn compare(&self, target: &Target, found: &[Bytes]) -> Result<(), Failure> {
        let function = target.speech.function;
        let found: HashSet<String> =
            found.iter().map(|directory| function.digest(directory).hash).collect();
        match self.blobs.iter().find(|blob| !found.contains(&blob.digest.hash)) {
            None => Ok(()),
            Some(blob) => {
                Err(Failure::wrong(format!("directory {} is not in the answer", blob.digest.hash)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bbb_digest::Function;

    #[test]
    fn the_tree_is_whole() {
        let blobs = directories(&Source::new(Function::Sha256));
        let mut named = 0;
        let known: HashSet<&str> = blobs.iter().map(|blob| blob.digest.hash.as_str()).collect();
        for blob in &blobs {
            let directory = Directory::decode(blob.to_vec().as_slice()).unwrap();
            assert_eq!(directory.files.len(), FILES_EACH);
            for child in &directory.directories {
                assert!(known.contains(child.digest.as_ref().unwrap().hash.as_str()));
                named += 1;
            }
        }
        assert_eq!((known.len(), named), (DIRECTORIES, DIRECTORIES - 1));
    }
}
