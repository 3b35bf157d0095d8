//! Resource names of the `ByteStream` service, as the comment of the API's
//! `ContentAddressableStorage` service defines them.

use std::fmt;

use bbb_digest::{Digest, Function, InstanceName};

use crate::{
    Invalid,
    log::{self, LogResource, LogWriteResource},
};

/// How a blob's bytes are encoded on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// As they are.
    Identity,
    /// As zstd frames (RFC 8878).
    Zstd,
}

/// A blob as it is read: `{instance}/blobs/{function/}{hash}/{size}` or
/// `{instance}/compressed-blobs/zstd/{function/}{hash}/{size}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobResource {
    /// The instance.
    pub instance: InstanceName,
    /// The encoding on the wire.
    pub compressor: Compressor,
    /// The blob.
    pub digest: Digest,
}

/// A blob as it is written: `{instance}/uploads/{uuid}/` before the blob, and whatever metadata after.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadResource {
    /// The client's name of this upload.
    pub upload: String,
    /// What is uploaded.
    pub blob: BlobResource,
}

/// What a resource name of `ByteStream` can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A blob to be read.
    Blob(BlobResource),
    /// An upload.
    Upload(UploadResource),
    /// A log to be read.
    Log(LogResource),
    /// A log to be appended to.
    LogWrite(LogWriteResource),
}

/// The longest resource name, in bytes.
const MAX_LEN: usize = 4096;

impl Resource {
    /// Reads a resource name.
    ///
    /// # Errors
    /// If it has none of the known forms, or a part of it is wrong.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        parse(name).map_err(|what| {
            let shown = &name[..name.floor_char_boundary(200)];
            Invalid::new("resource_name", format!("{what}: {shown:?}"))
        })
    }
}

fn parse(name: &str) -> Result<Resource, String> {
    if name.len() > MAX_LEN {
        return Err(format!("has {} bytes, more than {MAX_LEN}", name.len()));
    }
    // With an empty instance name some clients begin with the slash that should be left out.
    let name = name.strip_prefix('/').unwrap_or(name);
    let segments: Vec<&str> = name.split('/').collect();
    let keyword = |segment: &&str| matches!(*segment, "uploads" | "blobs" | "compressed-blobs");
    let Some(at) = segments.iter().position(keyword) else {
        return match log::parse(&segments) {
            Some(Ok(log::Name::Read(log))) => Ok(Resource::Log(log)),
            Some(Ok(log::Name::Write(log))) => Ok(Resource::LogWrite(log)),
            Some(Err(what)) => Err(what),
            None => Err("has neither blobs, uploads nor logstreams in it".into()),
        };
    };
    let instance = segments[..at].join("/");
    let instance: InstanceName =
        instance.parse().map_err(|error: bbb_digest::InstanceNameError| error.to_string())?;
    if segments[at] != "uploads" {
        let (blob, rest) = blob(instance, &segments[at..])?;
        return match rest {
            [] => Ok(Resource::Blob(blob)),
            _ => Err("goes on after the size".into()),
        };
    }
    match segments[at + 1..] {
        [] | [_] => Err("ends within the upload".into()),
        ["", ..] => Err("has no uuid after uploads".into()),
        [upload, ref rest @ ..] => {
            let (blob, _metadata) = blob(instance, rest)?;
            Ok(Resource::Upload(UploadResource { upload: upload.to_owned(), blob }))
        }
    }
}

/// Reads a name from its keyword on; gives back the segments after the size.
fn blob<'a, 'b>(
    instance: InstanceName,
    segments: &'a [&'b str],
) -> Result<(BlobResource, &'a [&'b str]), String> {
    let (compressor, rest) = match segments {
        ["blobs", rest @ ..] => (Compressor::Identity, rest),
        ["compressed-blobs", "zstd", rest @ ..] => (Compressor::Zstd, rest),
        ["compressed-blobs", "identity", rest @ ..] => (Compressor::Identity, rest),
        ["compressed-blobs", other, ..] => {
            return Err(format!("asks for the compressor {other:?}, but zstd is the one here"));
        }
        _ => return Err("has no blobs after the uuid".into()),
    };
    let named = rest.first().and_then(|segment| Function::from_name(segment));
    let rest = if named.is_some() { &rest[1..] } else { rest };
    let [hash, size, rest @ ..] = rest else { return Err("ends before the size".into()) };
    let inferred = || Function::inferred_from_hex_len(hash.len());
    let function = named.or_else(inferred).ok_or("has no known digest function or hash length")?;
    let plain = !size.is_empty() && size.bytes().all(|digit| digit.is_ascii_digit());
    let size = plain.then(|| size.parse().ok()).flatten().ok_or("has no number as its size")?;
    let digest = Digest::parse(function, hash, size).map_err(|error| error.to_string())?;
    Ok((BlobResource { instance, compressor, digest }, rest))
}

impl fmt::Display for BlobResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.instance.is_empty() {
            write!(f, "{}/", self.instance)?;
        }
        match self.compressor {
            Compressor::Identity => write!(f, "blobs/{}", self.digest),
            Compressor::Zstd => write!(f, "compressed-blobs/zstd/{}", self.digest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn read(name: &str) -> BlobResource {
        match Resource::parse(name).unwrap() {
            Resource::Blob(blob) => blob,
            Resource::Upload(upload) => upload.blob,
            other => panic!("{other:?} is no blob"),
        }
    }

    #[test]
    fn reads_every_form() {
        for (name, instance, compressor, function) in [
            (format!("blobs/{HASH}/3"), "", Compressor::Identity, Function::Sha256),
            (format!("/blobs/{HASH}/3"), "", Compressor::Identity, Function::Sha256),
            (format!("a/b/blobs/{HASH}/3"), "a/b", Compressor::Identity, Function::Sha256),
            (format!("blobs/blake3/{HASH}/3"), "", Compressor::Identity, Function::Blake3),
            (format!("a/compressed-blobs/zstd/{HASH}/3"), "a", Compressor::Zstd, Function::Sha256),
            (format!("uploads/u/blobs/{HASH}/3"), "", Compressor::Identity, Function::Sha256),
            (format!("/uploads/u/blobs/{HASH}/3"), "", Compressor::Identity, Function::Sha256),
            (
                format!("a/uploads/u/blobs/{HASH}/3/x/y"),
                "a",
                Compressor::Identity,
                Function::Sha256,
            ),
            (
                format!("a/uploads/u/compressed-blobs/zstd/sha256tree/{HASH}/3/meta"),
                "a",
                Compressor::Zstd,
                Function::Sha256Tree,
            ),
        ] {
            let blob = read(&name);
            assert_eq!(blob.instance.as_str(), instance, "{name}");
            assert_eq!(blob.compressor, compressor, "{name}");
            assert_eq!(blob.digest.function(), function, "{name}");
            assert_eq!(blob.digest.size_bytes(), 3, "{name}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for name in [
            "".to_owned(),
            "blobs".to_owned(),
            "uploads".to_owned(),
            "uploads/u".to_owned(),
            format!("uploads//blobs/{HASH}/3"),
            format!("uploads/u/{HASH}/3"),
            format!("blobs/{HASH}"),
            format!("blobs/{HASH}/"),
            format!("blobs/{HASH}/-1"),
            format!("blobs/{HASH}/+1"),
            format!("blobs/{HASH}/99999999999999999999"),
            format!("blobs/{HASH}/9999999999999999"),
            format!("blobs/{HASH}/3/more"),
            format!("blobs/{}/3", HASH.to_uppercase()),
            format!("blobs/md5/{HASH}/3"),
            format!("blobs/{}/3", &HASH[1..]),
            format!("../blobs/{HASH}/3"),
            format!("a//b/blobs/{HASH}/3"),
            format!("actions/blobs/{HASH}/3"),
            format!("compressed-blobs/{HASH}/3"),
            format!("compressed-blobs/deflate/{HASH}/3"),
            "x".repeat(5000),
        ] {
            assert_eq!(Resource::parse(&name).unwrap_err().field, "resource_name", "{name:?}");
        }
    }

    #[test]
    fn prints_what_it_reads() {
        for name in
            [format!("a/b/compressed-blobs/zstd/blake3/{HASH}/3"), format!("blobs/{HASH}/3")]
        {
            assert_eq!(read(&name).to_string(), name);
        }
    }
}
