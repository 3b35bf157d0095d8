use prost::Message as _;

use crate::proto::reapi;

/// The gRPC header that carries [`RequestMetadata`], from the comment of the API's message.
pub const REQUEST_METADATA_HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// The longest text of a request's metadata that is kept, in bytes.
const MAX_TEXT_LEN: usize = 1024;

/// Who asks, as clients tell it beside their requests. All of it is a client's word, good for fairness
/// and for display, never for trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMetadata {
    /// Name and version of the tool.
    pub tool: String,
    /// Ties the requests of one action together.
    pub action_id: String,
    /// Ties the actions of one build together.
    pub invocation: String,
    /// Ties builds together.
    pub correlated_invocations: String,
    /// The kind of action, such as `CppCompile`.
    pub mnemonic: String,
    /// The target that the action belongs to.
    pub target: String,
}

impl RequestMetadata {
    /// Reads the header's bytes. What cannot be read counts as not sent: nothing depends on it.
    pub fn decode(bytes: &[u8]) -> Self {
        let Ok(message) = reapi::RequestMetadata::decode(bytes) else { return Self::default() };
        let tool = message.tool_details.unwrap_or_default();
        Self {
            tool: kept(format!("{} {}", tool.tool_name, tool.tool_version).trim().to_owned()),
            action_id: kept(message.action_id),
            invocation: kept(message.tool_invocation_id),
            correlated_invocations: kept(message.correlated_invocations_id),
            mnemonic: kept(message.action_mnemonic),
            target: kept(message.target_id),
        }
    }
}

fn kept(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT_LEN));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_counts_as_not_sent() {
        assert_eq!(RequestMetadata::decode(&[0xff; 40]), RequestMetadata::default());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let target_id = "ü".repeat(1000) + "x";
        let bytes = reapi::RequestMetadata { target_id, ..Default::default() }.encode_to_vec();
        assert_eq!(RequestMetadata::decode(&bytes).target, "ü".repeat(512));
    }
}
