//! Requests of the Remote Asset API, parsed once.

use bbb_asset::{AssetUri, Fetch, Kind, Push, Qualifiers};
use bbb_digest::{Digest, Function, InstanceName, InstanceNameError};
use bbb_reapi::{
    Invalid, duration,
    proto::{
        asset::{FetchBlobRequest, PushBlobRequest, Qualifier},
        reapi,
    },
    requested_function, required_digest, timestamp,
};

/// How many URIs one request may name, and how many references.
const MAX_URIS: usize = 256;
const MAX_REFERENCES: usize = 10_000;

/// A request of Fetch for an asset of `kind`.
pub(super) fn fetch(kind: Kind, request: &FetchBlobRequest) -> Result<Fetch, Invalid> {
    let (uris, qualifiers) = named(kind, &request.uris, &request.qualifiers)?;
    let timeout = request.timeout.as_ref().map(duration).transpose();
    let oldest = request.oldest_content_accepted.as_ref().map(timestamp).transpose();
    Ok(Fetch {
        instance: instance(&request.instance_name)?,
        kind,
        function: requested_function(request.digest_function, None)?,
        uris,
        qualifiers,
        timeout: timeout.map_err(|invalid| renamed(invalid, "timeout"))?,
        oldest: oldest.map_err(|invalid| renamed(invalid, "oldest_content_accepted"))?,
    })
}

/// A request of Push of an asset of `kind`.
pub(super) fn push(kind: Kind, request: &PushBlobRequest) -> Result<Push, Invalid> {
    let (uris, qualifiers) = named(kind, &request.uris, &request.qualifiers)?;
    let content = request.blob_digest.as_ref();
    let function = requested_function(request.digest_function, content)?;
    // As the client calls it.
    let field = match kind {
        Kind::Blob => "blob_digest",
        Kind::Directory => "root_directory_digest",
    };
    let expires = request.expire_at.as_ref().map(timestamp).transpose();
    Ok(Push {
        instance: instance(&request.instance_name)?,
        uris,
        qualifiers,
        kind,
        content: required_digest(function, field, content)?,
        blobs: references(function, "references_blobs", &request.references_blobs)?,
        directories: references(
            function,
            "references_directories",
            &request.references_directories,
        )?,
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
