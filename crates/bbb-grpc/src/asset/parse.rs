//! Requests of the Remote Asset API, parsed once.

use bbb_asset::{AssetUri, Fetch, Kind, Push, Qualifiers};
use bbb_digest::{Digest, Function, InstanceName, InstanceNameError};
use bbb_reapi::{
    Invalid, duration,
    proto::{
        asset::{
            FetchBlobRequest, FetchDirectoryRequest, PushBlobRequest, PushDirectoryRequest,
            Qualifier,
        },
        protobuf::{Duration, Timestamp},
        reapi,
    },
    requested_function, required_digest, timestamp,
};

/// How many URIs one request may name, and how many references.
const MAX_URIS: usize = 256;
const MAX_REFERENCES: usize = 10_000;

/// What the two requests of Fetch have in common.
struct FetchParts<'a> {
    kind: Kind,
    instance_name: &'a str,
    timeout: Option<&'a Duration>,
    oldest: Option<&'a Timestamp>,
    uris: &'a [String],
    qualifiers: &'a [Qualifier],
    function: i32,
}

pub(super) fn fetch_blob(request: &FetchBlobRequest) -> Result<Fetch, Invalid> {
    fetch(FetchParts {
        kind: Kind::Blob,
        instance_name: &request.instance_name,
        timeout: request.timeout.as_ref(),
        oldest: request.oldest_content_accepted.as_ref(),
        uris: &request.uris,
        qualifiers: &request.qualifiers,
        function: request.digest_function,
    })
}

pub(super) fn fetch_directory(request: &FetchDirectoryRequest) -> Result<Fetch, Invalid> {
    fetch(FetchParts {
        kind: Kind::Directory,
        instance_name: &request.instance_name,
        timeout: request.timeout.as_ref(),
        oldest: request.oldest_content_accepted.as_ref(),
        uris: &request.uris,
        qualifiers: &request.qualifiers,
        function: request.digest_function,
    })
}

fn fetch(parts: FetchParts<'_>) -> Result<Fetch, Invalid> {
    let (uris, qualifiers) = named(parts.kind, parts.uris, parts.qualifiers)?;
    let timeout = parts.timeout.map(duration).transpose();
    let oldest = parts.oldest.map(timestamp).transpose();
    Ok(Fetch {
        instance: instance(parts.instance_name)?,
        kind: parts.kind,
        function: requested_function(parts.function, None)?,
        uris,
        qualifiers,
        timeout: timeout.map_err(|invalid| renamed(invalid, "timeout"))?,
        oldest: oldest.map_err(|invalid| renamed(invalid, "oldest_content_accepted"))?,
    })
}

/// What the two requests of Push have in common.
struct PushParts {
    kind: Kind,
    instance_name: String,
    uris: Vec<String>,
    qualifiers: Vec<Qualifier>,
    expires: Option<Timestamp>,
    content: Option<reapi::Digest>,
    blobs: Vec<reapi::Digest>,
    directories: Vec<reapi::Digest>,
    function: i32,
}

pub(super) fn push_blob(request: PushBlobRequest) -> Result<Push, Invalid> {
    push(PushParts {
        kind: Kind::Blob,
        instance_name: request.instance_name,
        uris: request.uris,
        qualifiers: request.qualifiers,
        expires: request.expire_at,
        content: request.blob_digest,
        blobs: request.references_blobs,
        directories: request.references_directories,
        function: request.digest_function,
    })
}

pub(super) fn push_directory(request: PushDirectoryRequest) -> Result<Push, Invalid> {
    push(PushParts {
        kind: Kind::Directory,
        instance_name: request.instance_name,
        uris: request.uris,
        qualifiers: request.qualifiers,
        expires: request.expire_at,
        content: request.root_directory_digest,
        blobs: request.references_blobs,
        directories: request.references_directories,
        function: request.digest_function,
    })
}

fn push(parts: PushParts) -> Result<Push, Invalid> {
    let (uris, qualifiers) = named(parts.kind, &parts.uris, &parts.qualifiers)?;
    let function = requested_function(parts.function, parts.content.as_ref())?;
    let field = match parts.kind {
        Kind::Blob => "blob_digest",
        Kind::Directory => "root_directory_digest",
    };
    let expires = parts.expires.as_ref().map(timestamp).transpose();
    Ok(Push {
        instance: instance(&parts.instance_name)?,
        uris,
        qualifiers,
        kind: parts.kind,
        content: required_digest(function, field, parts.content.as_ref())?,
        blobs: references(function, "references_blobs", &parts.blobs)?,
        directories: references(function, "references_directories", &parts.directories)?,
        expires: expires.map_err(|invalid| renamed(invalid, "expire_at"))?,
    })
}

/// What an asset is called.
fn named(
    kind: Kind,
    uris: &[String],
    qualifiers: &[Qualifier],
) -> Result<(Vec<AssetUri>, Qualifiers), Invalid> {
    if uris.is_empty() || uris.len() > MAX_URIS {
        let what = format!("has {} of them; 1 to {MAX_URIS} are right", uris.len());
        return Err(Invalid::new("uris", what));
    }
    let parse = |(index, uri): (usize, &String)| AssetUri::parse(&format!("uris[{index}]"), uri);
    let uris = uris.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    let pairs = qualifiers.iter().map(|pair| (&*pair.name, &*pair.value));
    let qualifiers = Qualifiers::parse(kind, &uris, pairs)?;
    Ok((uris, qualifiers))
}

fn references(
    function: Function,
    field: &str,
    digests: &[reapi::Digest],
) -> Result<Vec<Digest>, Invalid> {
    if digests.len() > MAX_REFERENCES {
        return Err(Invalid::new(field, format!("has more than {MAX_REFERENCES} of them")));
    }
    let parse =
        |(index, digest)| required_digest(function, &format!("{field}[{index}]"), Some(digest));
    digests.iter().enumerate().map(parse).collect()
}

fn instance(name: &str) -> Result<InstanceName, Invalid> {
    name.parse().map_err(|error: InstanceNameError| Invalid::new("instance_name", error))
}

fn renamed(invalid: Invalid, field: &str) -> Invalid {
    Invalid { field: field.to_owned(), ..invalid }
}
