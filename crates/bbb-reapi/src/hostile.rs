//! What must hold of any bytes and any text that a client sends: the fuzz targets check it, and the tests here
//! with random input on every run.

use bbb_digest::Function;

use crate::{Action, Command, Directory, Resource, Tree};

/// Any bytes are a directory, a tree, a command or an action, or are refused.
///
/// # Panics
/// If a name or path gets through that could lead out of its folder.
pub fn check_message(bytes: &[u8]) {
    if let Ok(directory) = Directory::decode(Function::Sha256, bytes) {
        for name in directory.names() {
            let name = name.as_str();
            assert!(!matches!(name, "" | "." | "..") && !name.contains(['/', '\0']));
        }
    }
    if let Ok(command) = Command::decode(bytes) {
        for output in command.outputs.iter() {
            assert!(output.path.segments().all(|segment| segment != ".."));
        }
    }
    let _ = Tree::decode(Function::Sha256, bytes);
    let _ = Action::decode(Function::Sha256, bytes);
}

/// Any text is a resource name that can be printed and read again, or is refused.
///
/// # Panics
/// If what is printed is read as something else.
pub fn check_resource_name(name: &str) {
    if let Ok(Resource::Blob(blob)) = Resource::parse(name) {
        assert_eq!(Resource::parse(&blob.to_string()), Ok(Resource::Blob(blob)));
    }
}

#[cfg(test)]
mod tests {
    use bbb_digest::Digest;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::{ToProto as _, proto::reapi};

    /// An encoded directory with some bytes of it changed: random bytes alone rarely get past the first field.
    fn damaged_directory() -> impl Strategy<Value = Vec<u8>> {
        let digest = Digest::of(Function::Sha256, b"x").to_proto();
        let file = |name: String| reapi::FileNode {
            name,
            digest: Some(digest.clone()),
            ..Default::default()
        };
        let directory = reapi::Directory {
            files: vec![file("a".into()), file("b".into())],
            ..Default::default()
        };
        let encoded = directory.encode_to_vec();
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
        changes.prop_map(move |changes| {
            let mut bytes = encoded.clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_refused(bytes: Vec<u8>) {
            check_message(&bytes);
        }

        #[test]
        fn damaged_messages_are_read_or_refused(bytes in damaged_directory()) {
            check_message(&bytes);
        }

        #[test]
        fn any_text_is_a_resource_name_or_refused(
            name in "(a|\\.\\.|/|blobs|uploads|compressed-blobs|zstd|sha256tree|[0-9a-f]{64}|-?[0-9]{1,20}|\\PC){0,12}"
        ) {
            check_resource_name(&name);
        }
    }
}
