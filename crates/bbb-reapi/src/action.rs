use std::time::Duration;

use bbb_digest::{Digest, Function};
use prost::Message as _;

use crate::{Invalid, Properties, parts, proto::reapi, required_digest, time};

/// What is to be run: a command over an input tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The digest of the [`Command`](crate::Command).
    pub command: Digest,
    /// The digest of the root [`Directory`](crate::Directory) of the inputs.
    pub input_root: Digest,
    /// How long the command may run; none leaves it to the server.
    pub timeout: Option<Duration>,
    /// Whether the result must neither be cached nor shared with an equal action in flight.
    pub do_not_cache: bool,
    /// What the worker must offer, where the action says it itself (API 2.2); else the command does.
    pub platform: Option<Properties>,
}

impl Action {
    /// Reads an encoded action whose digests belong to `function`.
    ///
    /// # Errors
    /// If it cannot be decoded or one of its fields breaks a rule.
    pub fn decode(function: Function, bytes: &[u8]) -> Result<Self, Invalid> {
        parts::check_stored(parts::ACTION, bytes)?;
        let action = reapi::Action::decode(bytes)
            .map_err(|error| Invalid::new("action", format!("is no Action message: {error}")))?;
        let digest = |field, value| {
            required_digest(function, field, value).map_err(|invalid| invalid.within("action"))
        };
        Ok(Self {
            command: digest("command_digest", action.command_digest.as_ref())?,
            input_root: digest("input_root_digest", action.input_root_digest.as_ref())?,
            timeout: (action.timeout.as_ref())
                .map(|timeout| {
                    time::duration(timeout).map_err(|error| error.within("action.timeout"))
                })
                .transpose()?,
            do_not_cache: action.do_not_cache,
            platform: action.platform.map(Properties::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ToProto, proto::protobuf};

    fn valid() -> reapi::Action {
        reapi::Action {
            command_digest: Some(Digest::of(Function::Sha256, b"c").to_proto()),
            input_root_digest: Some(Digest::of(Function::Sha256, b"i").to_proto()),
            ..Default::default()
        }
    }

    #[test]
    fn a_valid_action_is_read() {
        let action = Action::decode(Function::Sha256, &valid().encode_to_vec()).unwrap();
        assert_eq!(action.command, Digest::of(Function::Sha256, b"c"));
        assert_eq!(action.timeout, None);
    }

    #[test]
    fn wrong_fields_are_named() {
        let field = |action: reapi::Action| {
            Action::decode(Function::Sha256, &action.encode_to_vec()).unwrap_err().field
        };
        assert_eq!(field(reapi::Action::default()), "action.command_digest");
        let timeout = Some(protobuf::Duration { seconds: -3, nanos: 0 });
        assert_eq!(field(reapi::Action { timeout, ..valid() }), "action.timeout.duration");
        assert_eq!(Action::decode(Function::Sha256, b"\xff\xff").unwrap_err().field, "action");
    }
}
