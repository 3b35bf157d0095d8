//! What of a repository is wanted.

use bbb_reapi::Invalid;

use crate::Qualifiers;

/// Where git puts what it was not asked for by its hash.
pub(super) const WANTED: &str = "refs/wanted/it";

/// What of a repository is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Revision {
    /// By its whole hash, in hex; on a branch, if one is named, too.
    Commit { hash: String, branch: Option<String> },
    /// By its name.
    Branch(String),
    /// What the repository is at.
    Head,
}

impl Revision {
    /// What these qualifiers ask for.
    pub(super) fn of(qualifiers: &Qualifiers) -> Result<Self, Invalid> {
        let refused =
            |name: &str, what: &str| Err(Invalid::new(format!("qualifiers[{name}]"), what));
        if qualifiers.integrity().is_some() {
            return refused("checksum.sri", "is of a file, which no repository is: use vcs.commit");
        }
        let branch = qualifiers.get("vcs.branch");
        let is_special = |c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c);
        let is_name = |branch: &str| {
            !branch.is_empty() && !branch.contains(is_special) && !branch.contains("..")
        };
        if branch.is_some_and(|branch| !is_name(branch)) {
            return refused("vcs.branch", "cannot be the name of a branch");
        }
        let branch = branch.map(str::to_owned);
        match (qualifiers.get("vcs.commit"), branch) {
            (Some(commit), branch) => {
                let is_hash = matches!(commit.len(), 40 | 64)
                    && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
                match is_hash {
                    true => Ok(Self::Commit { hash: commit.to_ascii_lowercase(), branch }),
                    false => refused("vcs.commit", "is not the whole hash of a commit"),
                }
            }
            (None, Some(branch)) => Ok(Self::Branch(branch)),
            (None, None) => Ok(Self::Head),
        }
    }

    /// What it is called where it was fetched to.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Commit { hash, .. } => hash,
            Self::Branch(_) | Self::Head => WANTED,
        }
    }

    /// What git is to fetch, and to where, from a repository that gives single commits (or does not).
    pub(super) fn refspecs(&self, is_modern: bool) -> Vec<String> {
        match self {
            Self::Commit { hash, .. } if is_modern => vec![format!("+{hash}:{WANTED}")],
            Self::Commit { .. } => {
                ["heads", "tags"].map(|refs| format!("+refs/{refs}/*:refs/{refs}/*")).into()
            }
            Self::Branch(branch) => vec![format!("+refs/heads/{branch}:{WANTED}")],
            Self::Head => vec![format!("+HEAD:{WANTED}")],
        }
    }

    /// The format of the repository that it can only be in.
    pub(super) fn object_format(&self) -> Option<&'static str> {
        match self {
            Self::Commit { hash, .. } if hash.len() == 64 => Some("sha256"),
            Self::Commit { .. } => Some("sha1"),
            Self::Branch(_) | Self::Head => None,
        }
    }

    /// Whether it is that it is not there, for which a fetch has failed. Git says so in words alone, and has one exit status for
    /// everything; the words are those of `LC_ALL=C`.
    pub(super) fn is_told_absent(&self, said: &str) -> bool {
        match self {
            // What follows is the server's: "upload-pack: not our ref HASH" of git, "want HASH not valid" of JGit.
            Self::Commit { hash, .. } => said.contains("remote error: ") && said.contains(hash),
            Self::Branch(_) | Self::Head => said.contains("couldn't find remote ref"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AssetUri, Kind};

    fn of(pairs: &[(&str, &str)]) -> Result<Revision, Invalid> {
        let uris = [AssetUri::parse("uris", "https://a/x").unwrap()];
        let qualifiers = Qualifiers::parse(Kind::Directory, &uris, pairs.iter().copied());
        Revision::of(&qualifiers.unwrap())
    }

    #[test]
    fn a_revision_is_a_whole_hash_or_a_plain_name() {
        let (sha1, sha256) = ("0123456789".repeat(4), "89ABCDEF".repeat(8));
        let commit = |hash: &str, branch: Option<&str>| {
            let (hash, branch) = (hash.to_ascii_lowercase(), branch.map(str::to_owned));
            Ok(Revision::Commit { hash, branch })
        };
        let both = [("vcs.commit", &*sha1), ("vcs.branch", "main")];
        assert_eq!(of(&both), commit(&sha1, Some("main")));
        assert_eq!(of(&[("vcs.commit", &sha256)]), commit(&sha256, None));
        assert_eq!(of(&[("vcs.branch", "a/b-c")]), Ok(Revision::Branch("a/b-c".to_owned())));
        assert_eq!(of(&[("directory", "a")]), Ok(Revision::Head));
        for commit in ["", "main", "0123abc", "--upload-pack=x", &sha1[1..], &"g".repeat(40)] {
            let field = of(&[("vcs.commit", commit)]).unwrap_err().field;
            assert_eq!(field, "qualifiers[vcs.commit]", "{commit}");
        }
        for branch in ["", "a:b", "a b", "a..b", "a^", "a*", "a\n", "a\\b"] {
            for pairs in [&[("vcs.branch", branch)][..], &[("vcs.branch", branch), both[0]]] {
                let field = of(pairs).unwrap_err().field;
                assert_eq!(field, "qualifiers[vcs.branch]", "{branch}");
            }
        }
    }
}
