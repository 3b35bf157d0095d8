//! Where the record of an asset lies: a digest that follows from what the asset is called.

use bbb_digest::{Digest, Function};

use crate::{AssetUri, Qualifiers};

/// What an asset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Some bytes.
    Blob,
    /// A tree of directories.
    Directory,
}

/// The key of what `uri` and `qualifiers` name, where the digests of assets are made by `function`.
///
/// It looks like a digest, and is that of no blob. What lets somebody in is not part of it.
pub(crate) fn key(
    kind: Kind,
    function: Function,
    uri: &AssetUri,
    qualifiers: &Qualifiers,
) -> Digest {
    let mut bytes = b"bbb asset 1\0".to_vec();
    bytes.push(match kind {
        Kind::Blob => b'b',
        Kind::Directory => b'd',
    });
    let mut add = |part: &str| {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    };
    add(uri.name());
    for (name, value) in qualifiers.identity() {
        add(name);
        add(value);
    }
    Digest::of(function, &bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn of(kind: Kind, function: Function, uri: &str, pairs: &[(&str, &str)]) -> Digest {
        let uri = AssetUri::parse("uris", uri).unwrap();
        let uris = std::slice::from_ref(&uri);
        let qualifiers = Qualifiers::parse(kind, uris, pairs.iter().copied()).unwrap();
        key(kind, function, &uri, &qualifiers)
    }

    #[test]
    fn whatever_tells_assets_apart_tells_keys_apart() {
        use {Function::*, Kind::*};
        let keys = [
            of(Blob, Sha256, "https://a/x", &[]),
            of(Directory, Sha256, "https://a/x", &[]),
            of(Blob, Blake3, "https://a/x", &[]),
            of(Blob, Sha256, "https://a/y", &[]),
            of(Blob, Sha256, "https://a/x?y", &[]),
            of(Blob, Sha256, "https://a/x", &[("a", "bc")]),
            of(Blob, Sha256, "https://a/x", &[("ab", "c")]),
            of(Blob, Sha256, "https://a/x", &[("a", "b"), ("c", "")]),
        ];
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
    }

    #[test]
    fn the_way_in_and_the_order_do_not() {
        let key = of(Kind::Blob, Function::Sha256, "https://a/x", &[("a", "b"), ("c", "d")]);
        let same = [("c", "d"), ("http_header:X-Token", "secret"), ("a", "b")];
        assert_eq!(of(Kind::Blob, Function::Sha256, "https://me:pw@A:443/x", &same), key);
    }

    #[test]
    fn keys_stay_what_they_were() {
        let key = of(Kind::Blob, Function::Sha256, "https://a/x", &[("a", "b")]);
        let expected = "ef6e69f6dc92b6a60749d0e390bf2cac11b648d23102469347c09eb7d93082c6/50";
        assert_eq!(key.to_string(), expected);
    }
}
