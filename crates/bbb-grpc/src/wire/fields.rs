//! The encoding of Protocol Buffers, read field by field in place.

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer of any kind.
    Varint(u64),
    /// Eight bytes, four bytes, or what else is of no interest here.
    Fixed,
    /// A string, some bytes or a message.
    Bytes(&'a [u8]),
}

/// What is read is no encoded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no encoded message")]
pub struct WireError;

/// The fields of an encoded message: numbers and values, in order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of `message`.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), WireError> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed
            }
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| WireError)?;
                Value::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed
            }
            _ => return Err(WireError),
        };
        match key >> 3 {
            0 => Err(WireError),
            number => Ok((number, value)),
        }
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(WireError)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use bbb_reapi::proto::reapi;
    use prost::Message as _;

    use super::*;

    #[test]
    fn reads_what_is_written() {
        let digest = reapi::Digest { hash: "abc".into(), size_bytes: 300 }.encode_to_vec();
        let fields: Result<Vec<_>, _> = Fields::new(&digest).collect();
        assert_eq!(fields, Ok(vec![(1, Value::Bytes(b"abc")), (2, Value::Varint(300))]));
    }

    #[test]
    fn refuses_what_is_none() {
        for bytes in [&b"\x0a\x05ab"[..], b"\x80", b"\x00\x01", b"\x0b", &[0xff; 20], b"\x09abc"] {
            assert!(Fields::new(bytes).any(|field| field.is_err()), "{bytes:?}");
        }
    }
}
