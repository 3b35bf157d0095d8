//! Digests and digest functions between wire and domain.

use bbb_digest::{Digest, Function};

use crate::{
    Invalid,
    proto::reapi::{self, digest_function::Value},
};

/// The wire code of a function.
pub const fn function_code(function: Function) -> Value {
    match function {
        Function::Sha256 => Value::Sha256,
        Function::Sha1 => Value::Sha1,
        Function::Sha384 => Value::Sha384,
        Function::Sha512 => Value::Sha512,
        Function::Sha256Tree => Value::Sha256tree,
        Function::Blake3 => Value::Blake3,
        Function::GitSha1 => Value::Gitsha1,
    }
}

/// The function of a wire code, where this system announces it.
pub fn announced_function(code: i32) -> Option<Function> {
    Function::ALL.into_iter().find(|function| function_code(*function) as i32 == code)
}

/// The function that a request means: the one that it names, else the one that the length of `example`,
/// a digest of the request, stands for.
///
/// # Errors
/// If the request names a function that is not announced, or names none and the length says nothing.
pub fn requested_function(code: i32, example: Option<&reapi::Digest>) -> Result<Function, Invalid> {
    if code != Value::Unknown as i32 {
        return announced_function(code).ok_or_else(|| {
            let name = Value::try_from(code).map_or("not in the API", |value| value.as_str_name());
            Invalid::new(
                "digest_function",
                format!("function {code} ({name}) is not announced here"),
            )
        });
    }
    let Some(example) = example else { return Ok(Function::Sha256) };
    Function::inferred_from_hex_len(example.hash.len()).ok_or_else(|| {
        let what = "is not set, and cannot be inferred from a hash of this length";
        Invalid::new("digest_function", format!("{what}: {:?}", shortened(&example.hash)))
    })
}

/// Reads a digest that belongs to `function`.
///
/// # Errors
/// If it is none; the field is named `hash` or `size_bytes`.
pub fn digest(function: Function, digest: &reapi::Digest) -> Result<Digest, Invalid> {
    Digest::parse(function, &digest.hash, digest.size_bytes).map_err(|error| {
        let field = match error {
            bbb_digest::DigestError::Size(_) => "size_bytes",
            _ => "hash",
        };
        Invalid::new(field, format!("{error}: {:?}", shortened(&digest.hash)))
    })
}

/// Reads a digest that must be set.
///
/// # Errors
/// If it is missing or wrong; the field is named `field` or below.
pub fn required_digest(
    function: Function,
    field: &str,
    value: Option<&reapi::Digest>,
) -> Result<Digest, Invalid> {
    let value = value.ok_or_else(|| Invalid::new(field, "is not set"))?;
    digest(function, value).map_err(|invalid| invalid.within(field))
}

/// Domain values that have a form on the wire.
pub trait ToProto {
    /// The form on the wire.
    type Proto;

    /// The value as the wire carries it.
    fn to_proto(&self) -> Self::Proto;
}

impl ToProto for Digest {
    type Proto = reapi::Digest;

    fn to_proto(&self) -> reapi::Digest {
        // Sizes are at most 1 TiB, so they fit.
        reapi::Digest {
            hash: self.hex().as_str().to_owned(),
            size_bytes: i64::try_from(self.size_bytes()).unwrap_or(i64::MAX),
        }
    }
}

/// Text of a client, cut so that an error does not carry megabytes back.
fn shortened(text: &str) -> &str {
    match text.char_indices().nth(140) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infers_only_what_the_api_lets_be_inferred() {
        let of_len = |len| reapi::Digest { hash: "0".repeat(len), size_bytes: 0 };
        assert_eq!(requested_function(0, Some(&of_len(64))), Ok(Function::Sha256));
        assert_eq!(requested_function(0, Some(&of_len(40))), Ok(Function::Sha1));
        assert!(requested_function(0, Some(&of_len(32))).is_err());
        assert_eq!(requested_function(Value::Blake3 as i32, None), Ok(Function::Blake3));
        assert!(requested_function(Value::Md5 as i32, None).is_err());
        assert!(requested_function(77, None).is_err());
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        let bad = reapi::Digest { hash: "xyz".into(), size_bytes: 1 };
        let invalid = required_digest(Function::Sha256, "action_digest", Some(&bad)).unwrap_err();
        assert_eq!(invalid.field, "action_digest.hash");
        let missing = required_digest(Function::Sha256, "action_digest", None).unwrap_err();
        assert_eq!(missing, Invalid::new("action_digest", "is not set"));
    }

    #[test]
    fn digests_survive_the_wire() {
        for function in Function::ALL {
            let before = Digest::of(function, b"abc");
            assert_eq!(digest(function, &before.to_proto()), Ok(before));
            assert_eq!(announced_function(function_code(function) as i32), Some(function));
        }
    }
}
