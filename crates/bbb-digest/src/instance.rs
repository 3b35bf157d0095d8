use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The longest instance name, in bytes. Names become parts of paths and keys.
const MAX_LEN: usize = 255;

/// Segments that resource names use themselves, from the comment of the Remote Execution API's
/// `ContentAddressableStorage` service.
const KEYWORDS: [&str; 7] = [
    "blobs",
    "uploads",
    "actions",
    "actionResults",
    "operations",
    "capabilities",
    "compressed-blobs",
];

/// The name of an instance: a wall between what different users of one server store and run.
///
/// It is empty or consists of segments parted by slashes. No segment is empty, `.`, `..`, a keyword of
/// resource names, or holds a control character.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct InstanceName(Arc<str>);

/// Why something is no instance name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstanceNameError {
    /// It has too many bytes.
    #[error("instance name has {0} bytes, more than {MAX_LEN}")]
    TooLong(usize),
    /// One of its segments is not allowed.
    #[error(
        "instance name has the segment {0:?}, which is empty, a keyword of resource names, '.', '..' or holds control characters"
    )]
    Segment(String),
}

impl InstanceName {
    /// The name as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the instance without a name.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for InstanceName {
    type Err = InstanceNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.len() > MAX_LEN {
            return Err(InstanceNameError::TooLong(name.len()));
        }
        let bad = |segment: &&str| {
            matches!(*segment, "" | "." | "..")
                || KEYWORDS.contains(segment)
                || segment.chars().any(char::is_control)
        };
        match name.split('/').find(bad) {
            Some(segment) if !name.is_empty() => {
                Err(InstanceNameError::Segment(segment.to_owned()))
            }
            _ => Ok(Self(name.into())),
        }
    }
}

impl Borrow<str> for InstanceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_clients_use() {
        for name in ["", "main", "team/project", "default_instance", "a b", "ünï"] {
            assert_eq!(name.parse::<InstanceName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_what_would_confuse_resource_names_or_paths() {
        let long = "x".repeat(256);
        for name in
            ["/", "a//b", "/a", "a/", "blobs", "a/uploads/b", "..", "a/../b", ".", "a\0", &long]
        {
            assert!(name.parse::<InstanceName>().is_err(), "{name:?}");
        }
    }
}
