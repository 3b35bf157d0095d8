//! `GetTree`: the directories of a tree, in pages.

use std::{collections::HashSet, sync::Arc};

use bbb_digest::Digest;
use bbb_reapi::{
    Directory, Invalid, NodeProperties, proto::reapi::GetTreeRequest, requested_function,
    required_digest,
};
use bbb_storage::{CasExt as _, MAX_MESSAGE_BYTES, Stores, Walk};
use futures::{Stream, stream};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use tokio::task;
use tonic::Status;

use crate::{
    Door,
    door::undecodable,
    status::{IntoStatus as _, internal, not_found},
    wire::{Message, Request, Response, digest_field, streaming},
};

/// How many directories stand in a page at the most.
const MAX_PAGE: usize = 1_000;

/// How many bytes a page should not exceed; one directory alone may.
const MAX_PAGE_BYTES: usize = 2 << 20;

type Entry = (Digest, Arc<Directory>);

/// Answers a call.
pub(super) async fn answer(door: Arc<Door>, request: Request) -> Response {
    door.wire
        .one_message(request, async |message, deadline| {
            let request = GetTreeRequest::decode(message).map_err(undecodable)?;
            let pages = pages(&door, &request).await?;
            Ok(streaming(pages, deadline))
        })
        .await
}

/// Where the pages of a call are.
struct Position {
    stores: Stores,
    root: Digest,
    /// Holds its memory until the last page is sent.
    walk: Walk,
    next: usize,
    page_size: usize,
    ended: bool,
}

async fn pages(
    door: &Door,
    request: &GetTreeRequest,
) -> Result<impl Stream<Item = Result<Message, Status>> + use<>, Status> {
    let root = root(request).map_err(|error| error.into_status())?;
    let page_size = match usize::try_from(request.page_size) {
        Ok(0) => MAX_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => return Err(Invalid::new("page_size", "is negative").into_status()),
    };
    let next = position(root, &request.page_token).map_err(|error| error.into_status())?;
    let stores = door.stores(&request.instance_name)?;
    let mut walk = stores.trees.walk(root).await.map_err(|error| error.into_status())?;
    // What was parsed before may have left the store since. To ask counts as a use, too.
    let digests: Vec<Digest> = walk.directories.iter().map(|(digest, _)| *digest).collect();
    let missing = stores.cas.find_missing(&digests).await;
    let mut missing: HashSet<Digest> =
        missing.map_err(|error| error.into_status())?.into_iter().collect();
    missing.extend(&walk.missing);
    if missing.contains(&root) {
        return Err(not_found(format!("root directory {root} is not stored here")));
    }
    walk.directories.retain(|(digest, _)| !missing.contains(digest));
    let position = Position { stores, root, walk, next, page_size, ended: false };
    Ok(stream::try_unfold(position, |mut position| async move {
        match position.ended {
            true => Ok(None),
            false => position.page().await.map(|page| Some((page, position))),
        }
    }))
}

fn root(request: &GetTreeRequest) -> Result<Digest, Invalid> {
    let root = request.root_digest.as_ref();
    let function = requested_function(request.digest_function, root)?;
    required_digest(function, "root_digest", root)
}

/// The token of the page that begins with the directory number `next`. It holds for this root alone.
fn token(root: Digest, next: usize) -> String {
    format!("{}-{next}", &root.hex().as_str()[..16])
}

fn position(root: Digest, page_token: &str) -> Result<usize, Invalid> {
    if page_token.is_empty() {
        return Ok(0);
    }
    let next = page_token.rsplit_once('-').and_then(|(_, next)| next.parse().ok());
    let next = next.filter(|next| token(root, *next) == page_token);
    next.ok_or_else(|| Invalid::new("page_token", "was not given for this root directory"))
}

impl Position {
    /// The next `GetTreeResponse`.
    async fn page(&mut self) -> Result<Message, Status> {
        let start = self.next.min(self.walk.directories.len());
        let end = self.walk.directories.len().min(start + self.page_size);
        let entries = self.walk.directories[start..end].to_vec();
        let encoded = task::spawn_blocking(move || encode_page(&entries)).await;
        let (mut page, taken, unlike) =
            encoded.map_err(|error| internal(format!("encoding a tree: {error}")))?;
        for digest in unlike {
            let bytes = self.stores.cas.get_bytes(digest, MAX_MESSAGE_BYTES).await;
            put_bytes(1, &bytes.map_err(|error| error.into_status())?, &mut page);
        }
        self.next = start + taken;
        self.ended = self.next >= self.walk.directories.len();
        if !self.ended {
            put_bytes(2, token(self.root, self.next).as_bytes(), &mut page);
        }
        Ok(Message::encoded(page))
    }
}

/// Writes directories until the page is full: the page, how many directories it took, and those of them
/// whose stored form is unlike what is written here and must be sent as it is.
fn encode_page(entries: &[Entry]) -> (Vec<u8>, usize, Vec<Digest>) {
    let mut page = Vec::with_capacity(64 << 10);
    let mut unlike = Vec::new();
    let mut encoded = Vec::new();
    let mut unlike_bytes = 0;
    for (taken, (digest, directory)) in entries.iter().enumerate() {
        if page.len() + unlike_bytes > 0
            && page.len() + unlike_bytes + digest.size_bytes() as usize > MAX_PAGE_BYTES
        {
            return (page, taken, unlike);
        }
        encoded.clear();
        encode(directory, &mut encoded);
        if Digest::of(digest.function(), &encoded) == *digest {
            put_bytes(1, &encoded, &mut page);
        } else {
            unlike_bytes += digest.size_bytes() as usize;
            unlike.push(*digest);
        }
    }
    (page, entries.len(), unlike)
}

/// Writes a `Directory` in its canonical form.
fn encode(directory: &Directory, buffer: &mut Vec<u8>) {
    let mut node = Vec::with_capacity(256);
    for file in &directory.files {
        node.clear();
        put_bytes(1, file.name.as_str().as_bytes(), &mut node);
        digest_field(2, &file.digest, &mut node);
        if file.is_executable {
            encode_key(4, WireType::Varint, &mut node);
            encode_varint(1, &mut node);
        }
        put_properties(6, file.properties, &mut node);
        put_bytes(1, &node, buffer);
    }
    for below in &directory.directories {
        node.clear();
        put_bytes(1, below.name.as_str().as_bytes(), &mut node);
        digest_field(2, &below.digest, &mut node);
        put_bytes(2, &node, buffer);
    }
    for link in &directory.symlinks {
        node.clear();
        put_bytes(1, link.name.as_str().as_bytes(), &mut node);
        put_bytes(2, link.target.as_bytes(), &mut node);
        put_properties(4, link.properties, &mut node);
        put_bytes(3, &node, buffer);
    }
    put_properties(5, directory.properties, buffer);
}

fn put_properties(field: u32, properties: NodeProperties, buffer: &mut Vec<u8>) {
    if let Some(message) = properties.to_proto() {
        put_bytes(field, &message.encode_to_vec(), buffer);
    }
}

fn put_bytes(field: u32, bytes: &[u8], buffer: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(bytes.len() as u64, buffer);
    buffer.extend_from_slice(bytes);
}
