use bytes::{Buf as _, Bytes};

use super::Rope;

/// Bytes before each message: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// Cuts the body of a request into messages.
#[derive(Debug)]
pub struct Frames {
    rope: Rope,
    /// The length of the message that is awaited, once its prefix has come. After a prefix that is not taken
    /// nobody knows where the next one is, so that its error stays.
    awaited: Result<Option<usize>, FrameError>,
    max_message_bytes: usize,
}

/// Why a body cannot be cut into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message is compressed by gRPC.
    #[error(
        "messages compressed by gRPC are not supported; blobs may be compressed as zstd instead"
    )]
    Compressed,
    /// The first byte of a prefix is neither 0 nor 1.
    #[error("message begins with the flag {0}, which gRPC does not know")]
    Flag(u8),
    /// A message is longer than is taken.
    #[error("message has {len} bytes, more than the {max} that are taken")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest that is taken.
        max: usize,
    },
    /// The body ends within a message.
    #[error("request ends within a message")]
    BrokenOff,
}

impl Frames {
    /// Cuts nothing yet; takes messages of at most `max_message_bytes`.
    pub fn new(max_message_bytes: usize) -> Self {
        Self { rope: Rope::default(), awaited: Ok(None), max_message_bytes }
    }

    /// Takes in what came next.
    pub fn push(&mut self, piece: Bytes) {
        self.rope.push(piece);
    }

    /// The length of the next message, where its prefix has come.
    ///
    /// # Errors
    /// If the prefix announces what is not taken; the same again from then on.
    pub fn awaited(&mut self) -> Result<Option<usize>, FrameError> {
        if self.awaited == Ok(None) && self.rope.len() >= PREFIX_BYTES {
            let flag = self.rope.get_u8();
            // A u32 fits into a usize on every machine that this is built for.
            let len = self.rope.get_u32() as usize;
            self.awaited = match flag {
                0 if len > self.max_message_bytes => {
                    Err(FrameError::TooLong { len, max: self.max_message_bytes })
                }
                0 => Ok(Some(len)),
                1 => Err(FrameError::Compressed),
                flag => Err(FrameError::Flag(flag)),
            };
        }
        self.awaited
    }

    /// The next message, where all of it has come.
    ///
    /// # Errors
    /// As [`Frames::awaited`].
    pub fn next_message(&mut self) -> Result<Option<Rope>, FrameError> {
        match self.awaited()? {
            Some(len) if self.rope.len() >= len => {
                self.awaited = Ok(None);
                Ok(Some(self.rope.split_to(len)))
            }
            _ => Ok(None),
        }
    }

    /// The body has ended.
    ///
    /// # Errors
    /// If it ended within a message, or had one that is not taken.
    pub fn ended(&self) -> Result<(), FrameError> {
        match self.awaited?.is_none() && self.rope.is_empty() {
            true => Ok(()),
            false => Err(FrameError::BrokenOff),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(body: &[u8], len: usize) -> Result<Vec<Bytes>, FrameError> {
        let mut frames = Frames::new(100);
        let mut messages = Vec::new();
        for piece in body.chunks(len) {
            frames.push(Bytes::copy_from_slice(piece));
            while let Some(message) = frames.next_message()? {
                messages.push(message.into_bytes());
            }
        }
        frames.ended().map(|()| messages)
    }

    #[test]
    fn messages_do_not_depend_on_how_the_body_is_cut() {
        let body = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x02de";
        for len in 1..body.len() {
            assert_eq!(cut(body, len).unwrap(), ["abc", "", "de"], "{len}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_cut_alike_or_refused(body: Vec<u8>, len in 1usize..9) {
            prop_assert_eq!(cut(&body, len), cut(&body, body.len().max(1)));
        }
    }

    #[test]
    fn nothing_is_found_behind_what_is_not_taken() {
        let mut frames = Frames::new(100);
        for piece in [b"\x07\0\0\0\0", b"\0\0\0\0\0"] {
            frames.push(Bytes::from_static(piece));
            assert_eq!(frames.next_message().unwrap_err(), FrameError::Flag(7));
        }
        assert_eq!(frames.ended(), Err(FrameError::Flag(7)));
    }

    #[test]
    fn what_is_not_taken_is_told() {
        assert_eq!(cut(b"\x01\0\0\0\0", 2), Err(FrameError::Compressed));
        assert_eq!(cut(b"\x07\0\0\0\0", 2), Err(FrameError::Flag(7)));
        assert_eq!(cut(b"\0\0\0\0\x65", 2), Err(FrameError::TooLong { len: 101, max: 100 }));
        assert_eq!(cut(b"\0\0\0\0\x03ab", 9), Err(FrameError::BrokenOff));
        assert_eq!(cut(b"\0\0", 9), Err(FrameError::BrokenOff));
    }
}
