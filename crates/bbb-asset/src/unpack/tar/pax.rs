//! Extended headers of pax (POSIX.1-2017, pax, "pax Extended Header").

/// What of the records says where an entry lies and how large it is; all else is passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size_bytes: Option<u64>,
}

impl Records {
    /// Reads records; what they say takes the place of what was said before.
    ///
    /// # Errors
    /// What is wrong with them, or what is not taken.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or("is a broken record about an entry")?;
            bytes = rest;
            // An empty value takes back what was said.
            let text = (!value.is_empty()).then(|| value.to_vec());
            match key {
                b"path" => self.path = text,
                b"linkpath" => self.target = text,
                b"size" => self.size_bytes = size(value)?,
                _ if key.starts_with(b"GNU.sparse.") => return Err("is about a sparse file"),
                _ => {}
            }
        }
        Ok(())
    }
}

fn size(value: &[u8]) -> Result<Option<u64>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|c| c.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).map(Some).ok_or("has a size that is none")
}

/// The first of some records, `LENGTH KEY=VALUE\n` where the length is that of it all, and what comes behind it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // More digits than any length has are not looked through.
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let digits = str::from_utf8(&bytes[..space]).ok()?;
    let len: usize = digits.parse().ok().filter(|_| !digits.starts_with('+'))?;
    let (record, rest) = bytes.split_at_checked(len)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at(equals);
    // It ends C strings, which others read.
    let value = value.get(1..).filter(|value| !value.contains(&0) || !is_name(key))?;
    Some((key, value, rest))
}

fn is_name(key: &[u8]) -> bool {
    matches!(key, b"path" | b"linkpath")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Records, &'static str> {
        let mut records = Records::default();
        records.read(bytes).map(|()| records)
    }

    #[test]
    fn records_are_read_or_refused() {
        let records = read(b"9 path=a\n19 comment=x=1\nz y\n11 size=12\n").unwrap();
        let path = Some(b"a".to_vec());
        assert_eq!(records, Records { path, target: None, size_bytes: Some(12) });
        assert_eq!(read(b"9 path=a\n8 path=\n"), Ok(Records::default()));
        for bytes in [
            b"9 path=a".as_slice(),
            b"11 path=a\n",
            b"8 path=a\n",
            b"0 path=a\n",
            b"2 \n",
            b"3 \n\n",
            b"99999999999999999999999 path=a\n",
            b"+9 path=a\n",
            b" 9 path=a\n",
            b"11 size=-1\n",
            b"11 path=a\0\n",
            b"25 GNU.sparse.realsize=1\n",
        ] {
            assert!(read(bytes).is_err(), "{:?}", str::from_utf8(bytes));
        }
    }
}
