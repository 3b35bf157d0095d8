//! What is wrong with a secret key.

use std::{fmt, io, path::PathBuf};

use super::MIN_BITS;

/// A secret key cannot be used. No message shows any of it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can be guessed.
    #[error(
        "secret key is weak: it is worth about {bits} bits, and {MIN_BITS} are needed; make one with: \
         openssl rand -base64 32 (or: head -c 32 /dev/urandom | base64)"
    )]
    Weak {
        /// What it is worth by a sober estimate.
        bits: u32,
    },
    /// It is no key but something else, most likely.
    #[error("secret key of {bytes} bytes is longer than {max_bytes}")]
    Long {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max_bytes: usize,
    },
    /// There is no key where one was expected.
    #[error("secret key is missing; make one with: openssl rand -base64 32")]
    Missing,
    /// There are too many of them.
    #[error("more than {max} secret keys")]
    Many {
        /// How many there may be.
        max: usize,
    },
    /// It was given before.
    #[error("the same secret key stands there twice")]
    Twice,
    /// One of several keys is wrong.
    #[error("{place}: {cause}")]
    At {
        /// Which one.
        place: Place,
        /// What is wrong with it.
        cause: Box<Self>,
    },
    /// What is in a file is wrong.
    #[error("{}: {cause}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Box<Self>,
    },
    /// The file holds something else.
    #[error("{} is larger than {max_bytes} bytes: is it the file of secret keys?", path.display())]
    LargeFile {
        /// The file.
        path: PathBuf,
        /// How large it may be.
        max_bytes: u64,
    },
    /// The file cannot be read.
    #[error("{} cannot be read: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// Where a key stands among several; counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a list.
    Key(usize),
    /// In a file.
    Line(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(number) => write!(f, "key {number}"),
            Self::Line(number) => write!(f, "line {number}"),
        }
    }
}
