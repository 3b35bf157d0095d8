//! `checksum.sri`: what an asset's bytes must hash to, as Subresource Integrity writes it.
//!
//! The value is that of an HTML `integrity` attribute (<https://www.w3.org/TR/SRI/>): hashes with white space between
//! them, of which only those of the strongest function count, and any of these will do. Besides the functions of that
//! specification, SHA-1 and BLAKE3 are taken, which Bazel writes in the same way.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bbb_digest::{Digest, Function};
use bbb_reapi::Invalid;

/// How many hashes one value may hold.
const MAX_HASHES: usize = 64;

/// The functions that are known, the strongest first.
const FUNCTIONS: [(&str, Function); 5] = [
    ("sha512", Function::Sha512),
    ("sha384", Function::Sha384),
    ("blake3", Function::Blake3),
    ("sha256", Function::Sha256),
    ("sha1", Function::Sha1),
];

/// What an asset's bytes must hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integrity {
    function: Function,
    name: &'static str,
    /// Any of them.
    hashes: Vec<Box<[u8]>>,
}

impl Integrity {
    /// Reads the value of the qualifier.
    ///
    /// # Errors
    /// If it holds no hash of a function that is known, or one that is not of its function's length. An asset that
    /// nobody can check is not one that needs no check.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        let mut found: Option<(usize, Vec<Box<[u8]>>)> = None;
        for (number, part) in text.split_ascii_whitespace().enumerate() {
            if number == MAX_HASHES {
                return Err(Invalid::new(field, format!("holds more than {MAX_HASHES} hashes")));
            }
            let Some((name, rest)) = part.split_once('-') else {
                return Err(Invalid::new(field, "holds something that is no FUNCTION-BASE64"));
            };
            // Functions of the future are passed over, as the specification asks for.
            let Some(rank) = FUNCTIONS.iter().position(|(known, _)| *known == name) else {
                continue;
            };
            let encoded = rest.split('?').next().unwrap_or_default();
            let hash = STANDARD.decode(encoded).ok();
            let hash = hash.filter(|hash| hash.len() == FUNCTIONS[rank].1.hash_len());
            let Some(hash) = hash else {
                return Err(Invalid::new(field, format!("holds a {name} that is none in base64")));
            };
            match &mut found {
                Some((best, hashes)) if *best == rank => hashes.push(hash.into()),
                Some((best, _)) if *best < rank => {}
                _ => found = Some((rank, vec![hash.into()])),
            }
        }
        let Some((rank, hashes)) = found else {
            let known: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
            return Err(Invalid::new(field, format!("holds no hash of {}", known.join(", "))));
        };
        let (name, function) = FUNCTIONS[rank];
        Ok(Self { function, name, hashes })
    }

    /// By which function the bytes are checked. None looks at the size.
    pub(crate) fn function(&self) -> Function {
        self.function
    }

    /// Whether these are the bytes, by their digest.
    ///
    /// # Errors
    /// What they hash to instead.
    pub(crate) fn check(&self, digest: &Digest) -> Result<(), String> {
        match self.hashes.iter().any(|hash| **hash == *digest.hash()) {
            true => Ok(()),
            false => Err(format!("{}-{}", self.name, STANDARD.encode(digest.hash()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO_256: &str = "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    const HELLO_1: &str = "sha1-qvTGHdzF6KLavt4PO0gs2a6pQ00=";
    const WRONG_256: &str = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn check(text: &str, bytes: &[u8]) -> Result<(), String> {
        let integrity = Integrity::parse("q", text).unwrap();
        integrity.check(&Digest::of(integrity.function(), bytes))
    }

    #[test]
    fn every_function_checks() {
        assert_eq!(check(HELLO_256, b"hello"), Ok(()));
        assert_eq!(check(HELLO_1, b"hello"), Ok(()));
        assert_eq!(check(WRONG_256, b"hello"), Err(HELLO_256.to_owned()));
        for (name, function) in FUNCTIONS {
            let hash = Digest::of(function, b"hello");
            let text = format!("{name}-{}?option", STANDARD.encode(hash.hash()));
            assert_eq!(check(&text, b"hello"), Ok(()), "{text}");
            assert!(check(&text, b"hullo").is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_strongest_counts_and_any_of_those_will_do() {
        assert!(check(&format!("{HELLO_1} {WRONG_256}"), b"hello").is_err());
        assert!(check(&format!("{WRONG_256} {HELLO_1}"), b"hello").is_err());
        assert_eq!(check(&format!(" {WRONG_256}\t{HELLO_256} sha999-x "), b"hello"), Ok(()));
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        for text in [
            "",
            "  ",
            "md5-XUFAKrxLKna5cZ2REBfFkg==",
            "sha256-",
            "sha256-abc",
            "sha256",
            HELLO_1.split_at(9).0,
        ] {
            assert!(Integrity::parse("q", text).is_err(), "{text:?}");
        }
        assert!(Integrity::parse("q", &vec![HELLO_1; MAX_HASHES + 1].join(" ")).is_err());
    }
}
