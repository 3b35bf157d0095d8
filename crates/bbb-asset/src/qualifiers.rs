//! Qualifiers: what a client says of an asset besides its URIs.

use std::collections::BTreeMap;

use bbb_reapi::Invalid;

use crate::{AssetUri, Credentials, Integrity, Kind};

/// The field that `BadRequest` details name.
const FIELD: &str = "qualifiers";

/// How many qualifiers one request may have.
const MAX_QUALIFIERS: usize = 512;

/// The resource type of a repository of git, as the comment of `Qualifier` recommends one.
const GIT: &str = "application/x-git";

/// The qualifiers of a request, each in its place.
#[derive(Clone, Debug, Default)]
pub struct Qualifiers {
    /// Those that say which asset is meant, by name.
    identity: BTreeMap<Box<str>, Box<str>>,
    integrity: Option<Integrity>,
    credentials: Credentials,
    /// Names of those that nobody here knows how to fetch by.
    unsupported: Vec<Box<str>>,
}

impl Qualifiers {
    /// Reads the qualifiers of a request for assets of `kind` at `uris`, as pairs of name and value.
    ///
    /// # Errors
    /// If a name is empty or there twice, or a value is none that its name may have. Those that are not known are not an
    /// error yet: an asset may have been pushed with them.
    pub fn parse<'a>(
        kind: Kind,
        uris: &[AssetUri],
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Invalid> {
        let mut qualifiers = Self::default();
        let mut names = std::collections::BTreeSet::new();
        for (name, value) in pairs {
            if name.is_empty() {
                return Err(Invalid::new(format!("{FIELD}.name"), "is empty"));
            }
            if !names.insert(name) || names.len() > MAX_QUALIFIERS {
                let what = format!("{name:?} is there twice, or one of more than {MAX_QUALIFIERS}");
                return Err(Invalid::new(format!("{FIELD}.name"), what));
            }
            qualifiers.add(kind, uris, name, value)?;
        }
        qualifiers.credentials.add_logins(uris);
        Ok(qualifiers)
    }

    fn add(
        &mut self,
        kind: Kind,
        uris: &[AssetUri],
        name: &str,
        value: &str,
    ) -> Result<(), Invalid> {
        let field = &format!("{FIELD}[{}]", shortened(name));
        if let Some(header) = name.strip_prefix("http_header:") {
            return self.credentials.add_for_all(field, header, value);
        }
        if let Some(header) = name.strip_prefix("http_header_url:") {
            return self.credentials.add_for_one(field, header, value, uris.len());
        }
        match name {
            "bazel.auth_headers" => return self.credentials.add_by_url(field, value, uris),
            "checksum.sri" => self.integrity = Some(Integrity::parse(field, value)?),
            // A page about a repository is not the repository.
            "resource_type" if kind == Kind::Blob && value == GIT => {
                self.unsupported.push(name.into());
            }
            "resource_type" | "bazel.canonical_id" => {}
            "directory" | "vcs.branch" | "vcs.commit" if kind == Kind::Directory => {}
            _ => self.unsupported.push(name.into()),
        }
        self.identity.insert(name.into(), value.into());
        Ok(())
    }

    /// What the bytes must hash to, if the client knows.
    pub fn integrity(&self) -> Option<&Integrity> {
        self.integrity.as_ref()
    }

    /// The headers to fetch with.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Those that say which asset is meant, by name.
    pub(crate) fn identity(&self) -> impl Iterator<Item = (&str, &str)> {
        self.identity.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Names of those that nothing can be fetched by.
    pub fn unsupported(&self) -> &[Box<str>] {
        &self.unsupported
    }

    /// The value of one that says which asset is meant.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.identity.get(name).map(|value| &**value)
    }

    /// Whether a repository of git is meant.
    pub fn is_git(&self) -> bool {
        self.get("resource_type") == Some(GIT)
    }

    /// Whether what is fetched may be remembered for others. What was fetched by headers of a client belongs to whoever has
    /// them (RFC 9111, section 3.5), unless a checksum says which bytes they are: who knows that may have them, as in the CAS.
    pub(crate) fn may_be_shared(&self) -> bool {
        self.credentials.is_empty() || self.integrity.is_some()
    }
}

/// Text of a client, cut so that an error does not carry much of it back.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(80)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: Kind, pairs: &[(&str, &str)]) -> Result<Qualifiers, Invalid> {
        let uris = [AssetUri::parse("uris", "https://a/x").unwrap()];
        Qualifiers::parse(kind, &uris, pairs.iter().copied())
    }

    #[test]
    fn each_goes_to_its_place() {
        let qualifiers = parse(
            Kind::Blob,
            &[
                ("http_header:Accept", "text/html"),
                ("vcs.commit", "abc"),
                ("checksum.sri", "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="),
                ("bazel.canonical_id", "x"),
                ("my.own", "y"),
            ],
        );
        let qualifiers = qualifiers.unwrap();
        let names: Vec<&str> = qualifiers.identity().map(|(name, _)| name).collect();
        assert_eq!(names, ["bazel.canonical_id", "checksum.sri", "my.own", "vcs.commit"]);
        let unsupported: Vec<&str> = qualifiers.unsupported().iter().map(|name| &**name).collect();
        assert_eq!(unsupported, ["vcs.commit", "my.own"]);
        assert!(qualifiers.integrity().is_some() && qualifiers.may_be_shared());
        let unchecked =
            parse(Kind::Directory, &[("http_header:A", "b"), ("vcs.commit", "abc")]).unwrap();
        assert!(unchecked.unsupported().is_empty() && !unchecked.may_be_shared());
    }

    #[test]
    fn a_repository_is_a_directory() {
        let pairs = [("resource_type", GIT)];
        let blob = parse(Kind::Blob, &pairs).unwrap();
        assert_eq!(blob.unsupported().iter().map(|name| &**name).collect::<Vec<_>>(), [pairs[0].0]);
        let directory = parse(Kind::Directory, &pairs).unwrap();
        assert!(directory.unsupported().is_empty() && directory.is_git());
        let file = parse(Kind::Blob, &[("resource_type", "application/gzip")]).unwrap();
        assert!(file.unsupported().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for pairs in [
            &[("", "x")][..],
            &[("a", "x"), ("a", "x")],
            &[("checksum.sri", "x")],
            &[("http_header:", "x")],
            &[("http_header_url:1:a", "x")],
        ] {
            assert!(parse(Kind::Blob, pairs).is_err(), "{pairs:?}");
        }
    }
}
