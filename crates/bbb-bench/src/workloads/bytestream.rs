//! ByteStream writes and reads, plain and compressed.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Needs, Row};
use crate::args::{Args, Size};
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::payload::{Blob, Frames, Mould, Source, TAIL_BYTES, Texture};
use crate::target::Target;
use crate::wire::DataScanner;

const IDENTITY: &str = "blobs";
const ZSTD: &str = "compressed-blobs/zstd";
/// Size of the blobs that are sent as zstd.
const ZSTD_BYTES: usize = 1 << 20;
/// Plain bytes are always compared with what was written. Compressed ones are decompressed and compared so often.
const DECOMPRESS_EVERY: u64 = 16;
/// Blobs that reads take in turn: as many as fit these bytes, within these bounds.
const READ_SET_BYTES: usize = 64 << 20;
const READ_SET_MAX: usize = 256;

pub(super) fn rows(args: &Args, source: &Arc<Source>) -> Vec<Row> {
    let writes = |bytes: usize| (args.write_bytes.0 / bytes).clamp(1, 1_000_000) as u64;
    let mut rows = Vec::new();
    for &Size(bytes) in &args.sizes {
        let size = Size(bytes);
        let (bytes, at_once) = (bytes.max(TAIL_BYTES), at_once(bytes));
        let transfer = |form| Transfer { source: Arc::clone(source), bytes, form };
        rows.push(
            Row::new(
                format!("write-{size}"),
                format!("ByteStream write of {size}, new bytes"),
                Write(transfer(Form::Identity)),
            )
            .needs(Needs::Bare)
            .at_once(at_once)
            .calls(writes(bytes)),
        );
        rows.push(
            Row::new(
                format!("read-{size}"),
                format!("ByteStream read of {size}"),
                Read(transfer(Form::Identity)),
            )
            .needs(Needs::Bare)
            .at_once(at_once),
        );
    }
    let size = Size(ZSTD_BYTES);
    let transfer = || Transfer { source: Arc::clone(source), bytes: ZSTD_BYTES, form: Form::Zstd };
    rows.push(
        Row::new(
            format!("write-zstd-{size}"),
            format!("ByteStream write of {size} as zstd, half of it compressible"),
            Write(transfer()),
        )
        .needs(Needs::Zstd)
        .at_once(at_once(ZSTD_BYTES))
        .calls(writes(ZSTD_BYTES)),
    );
    rows.push(
        Row::new(
            format!("read-zstd-{size}"),
            format!("ByteStream read of the same {size} as zstd"),
            Read(transfer()),
        )
        .needs(Needs::Zstd)
        .at_once(at_once(ZSTD_BYTES)),
    );
    rows
}

/// Calls at once: many for small blobs, one for large ones.
pub(super) fn at_once(bytes: usize) -> &'static [u16] {
    match bytes {
        0..=0xffff => &[64],
        0x1_0000..=0xff_ffff => &[8],
        _ => &[1],
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Identity,
    Zstd,
}

#[derive(Clone)]
struct Transfer {
    source: Arc<Source>,
    bytes: usize,
    form: Form,
}

impl Transfer {
    fn mould(&self) -> Mould {
        let texture = match self.form {
            Form::Identity => Texture::Random,
            Form::Zstd => Texture::Half,
        };
        self.source.mould(texture, self.bytes)
    }
}

struct Write(Transfer);

struct WriteCalls {
    mould: Mould,
    /// Set when blobs go compressed.
    frames: Option<Frames>,
}

#[async_trait]
impl Workload for Write {
    async fn prepare(&self, _: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let mould = self.0.mould();
        let frames = (self.0.form == Form::Zstd).then(|| mould.frames()).transpose()?;
        Ok(Arc::new(WriteCalls { mould, frames }))
    }
}

#[async_trait]
impl Calls for WriteCalls {
    async fn call(&self, target: &Target, _: u64) -> Result<u64, Failure> {
        let blob = self.mould.blob();
        match &self.frames {
            None => target.write(&blob).await?,
            Some(frames) => {
                target.write_parts(ZSTD, &blob.digest, &frames.compress(&blob)).await?;
            }
        }
        Ok(blob.len() as u64)
    }
}

struct Read(Transfer);

struct ReadCalls {
    blobs: Vec<Blob>,
    form: Form,
}

#[async_trait]
impl Workload for Read {
    async fn prepare(&self, target: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        let mould = self.0.mould();
        let count = (READ_SET_BYTES / self.0.bytes).clamp(1, READ_SET_MAX);
        let blobs: Vec<Blob> = (0..count).map(|_| mould.blob()).collect();
        target.upload(&blobs).await?;
        Ok(Arc::new(ReadCalls { blobs, form: self.0.form }))
    }
}

#[async_trait]
impl Calls for ReadCalls {
    async fn call(&self, target: &Target, index: u64) -> Result<u64, Failure> {
        let blob = &self.blobs[index as usize % self.blobs.len()];
        match self.form {
            Form::Identity => read_identity(target, blob).await?,
            Form::Zstd => read_zstd(target, blob, index.is_multiple_of(DECOMPRESS_EVERY)).await?,
        }
        Ok(blob.len() as u64)
    }
}

/// Reads a blob and compares every byte with what was written.
pub(super) async fn read_identity(target: &Target, blob: &Blob) -> Result<(), Failure> {
    let mut offset = 0;
    scan(target, IDENTITY, blob, |run| {
        if target.stores {
            blob.expect_at(offset, run)?;
        }
        offset += run.len();
        Ok(())
    })
    .await?;
    if offset == blob.len() {
        return Ok(());
    }
    Err(Failure::wrong(format!("{offset} of {} bytes", blob.len())))
}

/// Reads a blob as zstd; if `decompress`, compares its bytes with what was written.
async fn read_zstd(target: &Target, blob: &Blob, decompress: bool) -> Result<(), Failure> {
    let (mut size, mut compressed) = (0, Vec::new());
    scan(target, ZSTD, blob, |run| {
        size += run.len();
        if decompress {
            compressed.extend_from_slice(run);
        }
        Ok(())
    })
    .await?;
    if decompress {
        let bytes = zstd::decode_all(compressed.as_slice())
            .map_err(|error| Failure::wrong(format!("zstd: {error}")))?;
        if bytes.len() != blob.len() {
            return Err(Failure::wrong(format!("{} of {} bytes", bytes.len(), blob.len())));
        }
        return blob.expect_at(0, &bytes);
    }
    if size > 0 { Ok(()) } else { Err(Failure::wrong("nothing")) }
}

async fn scan(
    target: &Target,
    kind: &str,
    blob: &Blob,
    mut sink: impl FnMut(&[u8]) -> Result<(), Failure> + Send,
) -> Result<(), Failure> {
    let mut answer = target.read(kind, &blob.digest).await?;
    let mut scanner = DataScanner::default();
    while let Some(piece) = answer.piece().await? {
        scanner.push(&piece, &mut sink)?;
    }
    if scanner.is_whole() { Ok(()) } else { Err(Failure::wrong("ended within a message")) }
}
