use std::collections::VecDeque;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};

/// Bytes in the pieces in which they came.
#[derive(Clone, Debug, Default)]
pub struct Rope {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Rope {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a piece at the end.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Takes the first `len` bytes away, or all there are if they are fewer, without copying any.
    pub fn split_to(&mut self, len: usize) -> Self {
        let mut head = Self::default();
        while head.len < len {
            let Some(mut piece) = self.pieces.pop_front() else { break };
            let wanted = len - head.len;
            if piece.len() > wanted {
                let rest = piece.split_off(wanted);
                self.pieces.push_front(rest);
            }
            self.len -= piece.len();
            head.push(piece);
        }
        head
    }

    /// All bytes in one piece; copies them where they came in several.
    pub fn into_bytes(mut self) -> Bytes {
        if self.pieces.len() <= 1 {
            return self.pieces.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(self.len);
        self.pieces.iter().for_each(|piece| whole.put_slice(piece));
        whole.freeze()
    }

    /// The pieces in order, those in a row that are smaller than `small` bytes put together: what takes
    /// them in does better with few.
    pub fn into_pieces(self, small: usize) -> impl Iterator<Item = Bytes> {
        let mut pieces: Vec<Self> = Vec::new();
        for piece in self.pieces {
            match pieces.last_mut() {
                Some(last) if last.len < small || piece.len() < small => last.push(piece),
                _ => pieces.push(piece.into()),
            }
        }
        pieces.into_iter().map(Self::into_bytes)
    }
}

impl From<Bytes> for Rope {
    fn from(piece: Bytes) -> Self {
        let mut rope = Self::default();
        rope.push(piece);
        rope
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map(Bytes::as_ref).unwrap_or_default()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front_mut().filter(|_| count > 0) {
            let taken = count.min(piece.len());
            piece.advance(taken);
            self.len -= taken;
            count -= taken;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_anywhere() {
        for cut in 0..=9 {
            let mut rope = Rope::default();
            for piece in ["abc", "", "defg", "hi"] {
                rope.push(Bytes::from_static(piece.as_bytes()));
            }
            let head = rope.split_to(cut);
            assert_eq!((head.len(), rope.len()), (cut, 9 - cut));
            assert_eq!(head.into_bytes(), &b"abcdefghi"[..cut]);
            assert_eq!(rope.into_bytes(), &b"abcdefghi"[cut..]);
        }
    }

    #[test]
    fn gives_all_it_has_where_more_is_asked_for() {
        let mut rope = Rope::from(Bytes::from_static(b"ab"));
        assert_eq!(rope.split_to(10).into_bytes(), "ab");
        assert!(rope.is_empty());
    }
}
