//! Paths of entries.

use std::fmt;

use bbb_reapi::FileName;

/// Where an entry lies below the root of its archive: plain names. The empty path is the root itself.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryPath(Vec<FileName>);

impl EntryPath {
    /// Reads a path as archives have it. `.` and empty segments, as in `./a` and `a/`, say nothing.
    ///
    /// # Errors
    /// What is wrong with it: it is absolute, goes up, is too long or too deep, holds NUL or is no UTF-8.
    pub fn parse(path: &[u8], max_bytes: usize, max_depth: usize) -> Result<Self, String> {
        if path.len() > max_bytes {
            return Err(format!("has a path of more than {max_bytes} bytes"));
        }
        let path = str::from_utf8(path).map_err(|_| "has a path that is no UTF-8")?;
        if path.starts_with('/') {
            return Err("has an absolute path".into());
        }
        let segments = path.split('/').filter(|segment| !matches!(*segment, "" | "."));
        let names: Result<Vec<FileName>, _> = segments
            .map(|segment| match segment {
                ".." => Err("has a path that goes up".to_owned()),
                _ => FileName::new(segment)
                    .map_err(|invalid| format!("has a path of which a segment {}", invalid.what)),
            })
            .collect();
        let names = names?;
        if names.len() > max_depth {
            return Err(format!("lies more than {max_depth} directories deep"));
        }
        Ok(Self(names))
    }

    /// The names that it consists of.
    pub fn names(&self) -> &[FileName] {
        &self.0
    }

    /// Its first `count` names.
    pub(super) fn prefix(&self, count: usize) -> Self {
        Self(self.0.iter().take(count).cloned().collect())
    }

    /// Whether a symbolic link there that points to `target` stays below the root, as far as names tell.
    pub(super) fn keeps_in(&self, target: &str) -> bool {
        let mut depth = self.0.len().saturating_sub(1);
        if target.starts_with('/') {
            return false;
        }
        target.split('/').all(|segment| match segment {
            "" | "." => true,
            ".." => match depth.checked_sub(1) {
                Some(up) => {
                    depth = up;
                    true
                }
                None => false,
            },
            _ => {
                depth += 1;
                true
            }
        })
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let slash = if index == 0 { "" } else { "/" };
            write!(f, "{slash}{}", name.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}
