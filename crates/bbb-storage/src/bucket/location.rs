//! Where a bucket is, as `--bucket` says it.

use std::{fmt, path::PathBuf, str::FromStr};

use object_store::path::Path;

/// A bucket, and the prefix below which everything of ours lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketLocation {
    /// A bucket of an S3-compatible server.
    S3 {
        /// Its name.
        bucket: String,
        /// What all keys begin with; may be empty.
        prefix: Path,
    },
    /// A folder that all nodes see, such as one of a network file system.
    Folder(PathBuf),
}

/// Why something names no bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// There is nothing where the bucket's name should be.
    #[error("'{0}' names no bucket; write name, s3://name/prefix or file:///folder")]
    Empty(String),
    /// The bucket's name has characters or a length that no bucket's name has.
    #[error("'{0}' is no bucket name: 3 to 63 letters, digits, dots and hyphens")]
    Name(String),
    /// A prefix without the scheme in front.
    #[error("'{0}' has a prefix; write it as s3://{0}")]
    PrefixWithoutScheme(String),
    /// The prefix has empty or dotted segments.
    #[error("prefix '{0}' has empty or dotted segments")]
    Prefix(String),
    /// Another scheme.
    #[error("'{0}://' is not spoken here; only s3:// and file:// are")]
    Scheme(String),
    /// A folder that is not named from the root.
    #[error("'{0}' is no absolute folder; write file:///folder")]
    RelativeFolder(String),
}

impl FromStr for BucketLocation {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        match text.split_once("://") {
            None if text.is_empty() => Err(LocationError::Empty(text.to_owned())),
            None if text.contains('/') => {
                Err(LocationError::PrefixWithoutScheme(text.trim_end_matches('/').to_owned()))
            }
            None => s3(text, ""),
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                match bucket.is_empty() {
                    true => Err(LocationError::Empty(text.to_owned())),
                    false => s3(bucket, prefix),
                }
            }
            Some(("file", folder)) if folder.starts_with('/') => Ok(Self::Folder(folder.into())),
            Some(("file", _)) => Err(LocationError::RelativeFolder(text.to_owned())),
            Some((scheme, _)) => Err(LocationError::Scheme(scheme.to_owned())),
        }
    }
}

fn s3(bucket: &str, prefix: &str) -> Result<BucketLocation, LocationError> {
    // Servers other than Amazon's take capitals and underscores too.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(is_plain) {
        return Err(LocationError::Name(bucket.to_owned()));
    }
    let trimmed = prefix.strip_suffix('/').unwrap_or(prefix);
    let prefix = Path::parse(trimmed).map_err(|_| LocationError::Prefix(prefix.to_owned()))?;
    Ok(BucketLocation::S3 { bucket: bucket.to_owned(), prefix })
}

impl fmt::Display for BucketLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.as_ref().is_empty() => {
                write!(f, "s3://{bucket}")
            }
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Folder(folder) => write!(f, "file://{}", folder.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_to_name_a_bucket() {
        let shown =
            |text: &str| text.parse::<BucketLocation>().map(|location| location.to_string());
        assert_eq!(shown("builds").unwrap(), "s3://builds");
        assert_eq!(shown("s3://builds").unwrap(), "s3://builds");
        assert_eq!(shown("s3://builds/").unwrap(), "s3://builds");
        assert_eq!(shown("s3://builds/team/cache/").unwrap(), "s3://builds/team/cache");
        assert_eq!(shown("file:///mnt/shared").unwrap(), "file:///mnt/shared");
    }

    #[test]
    fn what_names_none_says_why_in_one_line() {
        for (text, says) in [
            ("", "names no bucket"),
            ("s3://", "names no bucket"),
            ("s3:///prefix", "names no bucket"),
            ("ab", "3 to 63"),
            ("my bucket", "3 to 63"),
            ("builds/team", "s3://builds/team"),
            ("s3://builds/a//b", "empty or dotted"),
            ("s3://builds/../b", "empty or dotted"),
            ("gs://builds", "'gs://' is not spoken"),
            ("file://shared/dir", "no absolute folder"),
            ("file://dir", "no absolute folder"),
        ] {
            let error = text.parse::<BucketLocation>().unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
