use std::fmt;

use crate::Invalid;

/// The longest path that a client may name, in bytes: what Linux takes (`PATH_MAX`).
const MAX_PATH_LEN: usize = 4096;

/// The longest name of a file, in bytes (`NAME_MAX`).
const MAX_NAME_LEN: usize = 255;

/// The name of a file, directory or symlink within its directory: one path segment.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(Box<str>);

impl FileName {
    /// Checks a name.
    ///
    /// # Errors
    /// If it is empty, `.` or `..`, too long, or holds a slash or NUL.
    pub fn new(name: &str) -> Result<Self, Invalid> {
        check_segment(name).map_err(|what| Invalid::new("name", what))?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

/// A relative path that stays where it is: segments parted by single slashes, none of them `.` or `..`.
/// The empty path means the folder itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct OutputPath(Box<str>);

impl OutputPath {
    /// Checks a path.
    ///
    /// # Errors
    /// If it is absolute, ends with a slash, leaves its folder, is too long or holds NUL.
    pub fn new(path: &str) -> Result<Self, Invalid> {
        let invalid = |what: String| Invalid::new("path", what);
        if path.len() > MAX_PATH_LEN {
            return Err(invalid(format!("has {} bytes, more than {MAX_PATH_LEN}", path.len())));
        }
        if !path.is_empty() {
            path.split('/').try_for_each(check_segment).map_err(|what| {
                invalid(format!("{path:?} must be relative and plain, but a segment {what}"))
            })?;
        }
        Ok(Self(path.into()))
    }

    /// Reads a path that is relative to `base`, both being relative to the same folder. Unlike the path of
    /// a node it may hold `.` and `..`, which are resolved by what stands there; some clients declare
    /// outputs beside their working directory so.
    ///
    /// # Errors
    /// As [`OutputPath::new`]; also if the path leaves the folder.
    pub fn resolve(base: &Self, path: &str) -> Result<Self, Invalid> {
        let mut segments: Vec<&str> = base.segments().collect();
        let steps = path.split('/').filter(|_| !path.is_empty());
        for step in steps {
            match step {
                "." => {}
                ".." if segments.pop().is_none() => {
                    return Err(Invalid::new("path", format!("{path:?} leaves the input root")));
                }
                ".." => {}
                _ => {
                    check_segment(step).map_err(|what| {
                        let rule = "must be relative and plain, but a segment";
                        Invalid::new("path", format!("{path:?} {rule} {what}"))
                    })?;
                    segments.push(step);
                }
            }
        }
        Self::new(&segments.join("/"))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the folder itself.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The segments from the outermost to the innermost.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|segment| !segment.is_empty())
    }

    /// The path of the folder that holds this one; none for the folder itself.
    pub fn parent(&self) -> Option<Self> {
        if self.is_empty() {
            return None;
        }
        Some(Self(self.0.rsplit_once('/').map_or("", |(parent, _)| parent).into()))
    }
}

impl fmt::Display for OutputPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OutputPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

fn check_segment(segment: &str) -> Result<(), String> {
    match segment {
        "" => Err("is empty".into()),
        "." | ".." => Err(format!("is {segment:?}")),
        _ if segment.len() > MAX_NAME_LEN => {
            Err(format!("has {} bytes, more than {MAX_NAME_LEN}", segment.len()))
        }
        _ if segment.contains(['/', '\0']) => Err("holds a slash or NUL".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_leave_their_folder() {
        for path in
            ["/a", "a/", "a//b", "..", "a/../../b", ".", "a/./b", "a\0b", "/", &"x/".repeat(3000)]
        {
            assert!(OutputPath::new(path).is_err(), "{path:?}");
        }
        for path in ["", "a", "a/b", "a b/ü", "..a", "...", "a/..b"] {
            assert_eq!(OutputPath::new(path).unwrap().as_str(), path);
        }
    }

    #[test]
    fn paths_beside_the_working_directory_stay_in_the_root() {
        let base = OutputPath::new("work/here").unwrap();
        let resolve = |path| OutputPath::resolve(&base, path);
        for (path, resolved) in [
            ("", "work/here"),
            (".", "work/here"),
            ("a", "work/here/a"),
            ("./a/../b", "work/here/b"),
            ("../a", "work/a"),
            ("../../a", "a"),
            ("../..", ""),
        ] {
            assert_eq!(resolve(path).unwrap().as_str(), resolved, "{path:?}");
        }
        for path in ["../../..", "../../../a", "/a", "a/", "a//b", "a\0", "x/../../../../y"] {
            assert!(resolve(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn names_are_one_segment() {
        for name in ["", "/", "a/b", ".", "..", "a\0", &"x".repeat(256)] {
            assert!(FileName::new(name).is_err(), "{name:?}");
        }
        assert!(FileName::new("a b..").is_ok());
    }

    #[test]
    fn paths_have_parents() {
        let path = |path| OutputPath::new(path).unwrap();
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(path("")));
        assert_eq!(path("").parent(), None);
        assert_eq!(path("a/b").segments().count(), 2);
        assert_eq!(path("").segments().count(), 0);
    }
}
