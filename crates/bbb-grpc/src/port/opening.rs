//! How a connection begins: TLS, HTTP/2 or HTTP/1.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What the first bytes of a connection tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// A TLS handshake begins.
    Tls,
    /// HTTP/2, as its whole preface says.
    Http2,
    /// HTTP/1, or what is none of all; whoever reads it will say.
    Http1,
}

/// Reads as much as it takes to know, and gives the connection as if nothing had been read.
///
/// # Errors
/// If the connection breaks, or ends before it is known.
pub(super) async fn opening<I>(mut io: I) -> io::Result<(Opening, Rewound<I>)>
where
    I: AsyncRead + Unpin,
{
    let mut head = [0; PREFACE.len()];
    let mut read = 0;
    let opening = loop {
        match io.read(&mut head[read..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => read += len,
        }
        match &head[..read] {
            [TLS_HANDSHAKE, ..] => break Opening::Tls,
            all if all == PREFACE => break Opening::Http2,
            part if PREFACE.starts_with(part) => {}
            _ => break Opening::Http1,
        }
    };
    Ok((opening, Rewound { head, next: 0, end: read, io }))
}

/// A connection whose first bytes are read again.
#[derive(Debug)]
pub(super) struct Rewound<I> {
    head: [u8; PREFACE.len()],
    next: usize,
    end: usize,
    io: I,
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewound<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.next == self.end {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let len = (self.end - self.next).min(buffer.remaining());
        buffer.put_slice(&self.head[self.next..self.next + len]);
        self.next += len;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewound<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What is told of bytes that come in such pieces, and what is read afterwards.
    async fn told(pieces: &[&[u8]]) -> io::Result<(Opening, Vec<u8>)> {
        let (mut client, server) = tokio::io::duplex(64);
        let write = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let read = async {
            let (opening, mut io) = opening(server).await?;
            let mut all = Vec::new();
            io.read_to_end(&mut all).await?;
            Ok((opening, all))
        };
        tokio::join!(write, read).1
    }

    #[tokio::test]
    async fn the_first_bytes_tell() {
        for (bytes, expected) in [
            (b"\x16\x03\x01".as_slice(), Opening::Tls),
            (PREFACE, Opening::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Opening::Http2),
            (b"PUT / HTTP/1.1\r\n", Opening::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!", Opening::Http1),
            (b"\0", Opening::Http1),
        ] {
            assert_eq!(told(&[bytes]).await.unwrap(), (expected, bytes.to_vec()));
            let (a, b) = bytes.split_at(bytes.len() / 2);
            assert_eq!(told(&[a, b]).await.unwrap(), (expected, bytes.to_vec()));
        }
        for short in [b"".as_slice(), b"P", b"PRI * HTTP/2.0\r\n"] {
            let error = told(&[short]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{short:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost(bytes in prop::collection::vec(any::<u8>(), 1..200), cut: prop::sample::Index) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (a, b) = bytes.split_at(cut.index(bytes.len()));
            match runtime.block_on(told(&[a, b])) {
                Ok((_, read)) => prop_assert_eq!(read, bytes),
                Err(_) => prop_assert!(PREFACE.starts_with(&bytes)),
            }
        }
    }
}
