//! What an archive is packed by, told by its first bytes.

use std::io::{self, BufRead, BufReader, Read, SeekFrom};

use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;

use super::{Archive, UnpackError, meter::Source, tar};

/// How many bytes are read from an archive at a time.
const READ_BYTES: usize = 128 << 10;

/// How far back, in bytes, a packer may look, which is what unpacking takes in memory: as a power of two for zstd, which by
/// default goes as far, and in KiB for xz, whose `-9` has 64 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// What an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Tar,
    Gzip,
    Zstd,
    Xz,
    Zip,
}

impl Format {
    /// Looks at the beginning; the archive is at its beginning afterwards, too.
    pub(super) fn of(archive: &mut dyn Archive) -> Result<Self, UnpackError> {
        let mut start = Vec::with_capacity(tar::BLOCK_BYTES);
        archive
            .rewind()
            .and_then(|()| archive.take(tar::BLOCK_BYTES as u64).read_to_end(&mut start))
            .and_then(|_| archive.seek(SeekFrom::Start(0)))
            .map_err(UnpackError::Unreadable)?;
        match &*start {
            [] => Err(UnpackError::Format("it is empty")),
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            // A frame, or one to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Self::Xz),
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Ok(Self::Zip),
            [b'B', b'Z', b'h', ..] => Err(UnpackError::Format("bzip2 is not unpacked")),
            [b'7', b'z', 0xbc, 0xaf, ..] => Err(UnpackError::Format("7z is not unpacked")),
            [b'P', b'K', ..] => Err(UnpackError::Format("it is a zip archive in pieces")),
            start if tar::is_begun_by(start) => Ok(Self::Tar),
            _ => Err(UnpackError::Format("it is neither tar, tar.gz, tar.zst, tar.xz nor zip")),
        }
    }

    /// What is in it, of a tar archive.
    pub(super) fn reader<'a>(
        self,
        archive: impl Archive + 'a,
    ) -> Result<Box<dyn Read + 'a>, UnpackError> {
        let source = BufReader::with_capacity(READ_BYTES, Source(archive));
        Ok(match self {
            Self::Tar | Self::Zip => Box::new(source),
            Self::Gzip => Box::new(BufReader::new(Members::new(source))),
            Self::Zstd => {
                let mut decoder =
                    zstd::Decoder::with_buffer(source).map_err(UnpackError::of_reader)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(UnpackError::of_reader)?;
                Box::new(BufReader::new(decoder))
            }
            Self::Xz => {
                Box::new(BufReader::new(XzReader::new_mem_limit(source, true, XZ_MEMORY_KIB)))
            }
        })
    }
}

/// The members of a gzip file, one after the other (RFC 1952, section 2.2). As gzip does, it passes zeros over that pad the file.
struct Members<R> {
    state: State<R>,
}

enum State<R> {
    Within(GzDecoder<R>),
    Between(R),
    /// At the end, or broken.
    Over,
}

impl<R: BufRead> Members<R> {
    fn new(source: R) -> Self {
        Self { state: State::Within(GzDecoder::new(source)) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // What fails stays over.
            match std::mem::replace(&mut self.state, State::Over) {
                State::Over => return Ok(0),
                State::Within(mut member) => match member.read(buffer)? {
                    0 => self.state = State::Between(member.into_inner()),
                    count => {
                        self.state = State::Within(member);
                        return Ok(count);
                    }
                },
                State::Between(mut source) => match source.fill_buf()? {
                    [] => return Ok(0),
                    [0x1f, ..] => self.state = State::Within(GzDecoder::new(source)),
                    padded => {
                        let zeros = padded.iter().take_while(|byte| **byte == 0).count();
                        if zeros == 0 {
                            return Err(UnpackError::damaged("something comes behind it").into_io());
                        }
                        source.consume(zeros);
                        self.state = State::Between(source);
                    }
                },
            }
        }
    }
}
