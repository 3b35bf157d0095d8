//! Frames between the node and its launcher.
//!
//! A frame is a little-endian `u32` length and that many bytes; inside, integers are little-endian and byte
//! strings carry a `u32` length. It is written by hand since both ends are one binary: there is no version
//! to agree on. Knows lengths and order, refuses to know meaning.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest frame: what `execve(2)` takes of arguments and environment (2 MiB), and as much for paths.
pub(crate) const MAX_FRAME_BYTES: usize = 4 << 20;

/// A frame that ends too early, is too long or has a value that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("malformed frame between node and launcher")]
pub(crate) struct Malformed;

/// A value that can be put into a frame and taken out again.
pub(crate) trait Wire: Sized {
    fn put(&self, to: &mut Vec<u8>);
    fn take(from: &mut &[u8]) -> Result<Self, Malformed>;

    /// The value as a whole frame; refused if it is longer than [`MAX_FRAME_BYTES`].
    fn to_frame(&self) -> Result<Vec<u8>, Malformed> {
        let mut frame = vec![0; 4];
        self.put(&mut frame);
        let length = frame.len() - 4;
        if length > MAX_FRAME_BYTES {
            return Err(Malformed);
        }
        frame[..4].copy_from_slice(&u32::try_from(length).map_err(|_| Malformed)?.to_le_bytes());
        Ok(frame)
    }

    /// The value that is the whole body of a frame.
    fn from_body(mut body: &[u8]) -> Result<Self, Malformed> {
        let value = Self::take(&mut body)?;
        if body.is_empty() { Ok(value) } else { Err(Malformed) }
    }
}

/// Takes the next whole body off the front of `received`; `None` until there is one.
pub(crate) fn next_body(received: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Malformed> {
    let Some(length) = received.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(Malformed);
    }
    if received.len() < 4 + length {
        return Ok(None);
    }
    let body = received[4..4 + length].to_vec();
    received.drain(..4 + length);
    Ok(Some(body))
}

/// Reads one body, blocking; `None` at the end of the stream.
pub(crate) fn read_body(from: &mut impl io::Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, Malformed));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some(body))
}

fn split<'a>(from: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (front, back) = from.split_at_checked(length).ok_or(Malformed)?;
    *from = back;
    Ok(front)
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
            fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
                let (front, back) = from.split_first_chunk().ok_or(Malformed)?;
                *from = back;
                Ok(Self::from_le_bytes(*front))
            }
        }
    )*};
}

integers!(u8, u32, u64, i32);

impl Wire for bool {
    fn put(&self, to: &mut Vec<u8>) {
        u8::from(*self).put(to);
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::take(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl Wire for Duration {
    fn put(&self, to: &mut Vec<u8>) {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).put(to);
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        u64::take(from).map(Duration::from_nanos)
    }
}

fn put_bytes(bytes: &[u8], to: &mut Vec<u8>) {
    // A length that does not fit makes the frame too long, which `to_frame` refuses.
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).put(to);
    to.extend_from_slice(bytes);
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = u32::take(from)? as usize;
    split(from, length)
}

impl Wire for OsString {
    fn put(&self, to: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), to);
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        take_bytes(from).map(|bytes| OsString::from_vec(bytes.to_vec()))
    }
}

impl Wire for PathBuf {
    fn put(&self, to: &mut Vec<u8>) {
        put_bytes(self.as_os_str().as_bytes(), to);
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        take_bytes(from).map(|bytes| Path::new(OsStr::from_bytes(bytes)).to_owned())
    }
}

impl Wire for String {
    fn put(&self, to: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), to);
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        String::from_utf8(take_bytes(from)?.to_vec()).map_err(|_| Malformed)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        if let Some(value) = self {
            value.put(to);
        }
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(if bool::take(from)? { Some(T::take(from)?) } else { None })
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(to);
        for value in self {
            value.put(to);
        }
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        let count = u32::take(from)? as usize;
        // Every element takes a byte or more, so a hostile count is refused before anything is reserved.
        if count > from.len() {
            return Err(Malformed);
        }
        (0..count).map(|_| T::take(from)).collect()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
        self.1.put(to);
    }
    fn take(from: &mut &[u8]) -> Result<Self, Malformed> {
        Ok((A::take(from)?, B::take(from)?))
    }
}

/// Makes a struct go over the wire field by field, in the order that is given.
macro_rules! fields {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $type {
            fn put(&self, to: &mut Vec<u8>) {
                $($crate::wire::Wire::put(&self.$field, to);)*
            }
            fn take(from: &mut &[u8]) -> Result<Self, $crate::wire::Malformed> {
                Ok(Self { $($field: $crate::wire::Wire::take(from)?),* })
            }
        }
    };
}

pub(crate) use fields;

#[cfg(test)]
mod tests;
