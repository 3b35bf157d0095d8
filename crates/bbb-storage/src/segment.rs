//! Instance names as parts of paths and keys.

use std::fmt::Write as _;

use bbb_digest::{Digest, Function, InstanceName};

/// The longest escaped instance name that stands as it is; longer ones are cut and hashed.
const MAX_SEGMENT_LEN: usize = 180;

/// An instance's name as one segment of a path or key.
///
/// Different names give different segments: bytes other than letters, digits, `_`, `-` and inner dots
/// stand as `escape` and two hexadecimal digits; the empty name is a lone `escape`; a name that gets too
/// long ends in `escape`, `~` and its SHA-256, which nothing else can look like.
pub(crate) fn segment(instance: &InstanceName, escape: char) -> String {
    let name = instance.as_str();
    if name.is_empty() {
        return escape.to_string();
    }
    let mut segment = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || byte == b'.' && at > 0;
        match plain {
            true => segment.push(char::from(byte)),
            // Writing to a string cannot fail.
            false => drop(write!(segment, "{escape}{byte:02X}")),
        }
    }
    if segment.len() > MAX_SEGMENT_LEN {
        segment.truncate(MAX_SEGMENT_LEN - 66);
        segment.push(escape);
        segment.push('~');
        segment.push_str(Digest::of(Function::Sha256, name.as_bytes()).hex().as_str());
    }
    segment
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_look_alike_get_segments_of_their_own() {
        let long = |end: char| "ä".repeat(127) + &end.to_string();
        let names = [
            "",
            "a",
            "A",
            "a/b",
            "a%2Fb",
            "%",
            "%25",
            ".a",
            "a.",
            "...",
            "a~",
            &long('x'),
            &long('y'),
        ];
        let mut seen = HashMap::new();
        for name in names {
            let segment = segment(&name.parse().unwrap(), '%');
            assert!(
                segment.len() <= MAX_SEGMENT_LEN
                    && !segment.contains('/')
                    && !segment.starts_with('.')
            );
            assert_eq!(seen.insert(segment, name), None);
        }
    }

    proptest! {
        #[test]
        fn different_names_never_share_a_segment(one in ".{0,80}", other in ".{0,80}") {
            if let (Ok(one), Ok(other)) = (one.parse::<InstanceName>(), other.parse::<InstanceName>()) {
                for escape in ['%', '!'] {
                    prop_assert_eq!(segment(&one, escape) == segment(&other, escape), one == other);
                }
            }
        }
    }
}
