//! The fuzz targets of this crate with random bytes, on every run of the tests.

use bbb_digest::{Digest, Function};
use bbb_reapi::{Action, Command, Directory, Resource, ToProto as _, Tree, proto::reapi};
use proptest::prelude::*;
use prost::Message as _;

/// An encoded directory with some bytes of it changed: random bytes alone rarely get past the first field.
fn damaged_directory() -> impl Strategy<Value = Vec<u8>> {
    let digest = Digest::of(Function::Sha256, b"x").to_proto();
    let file =
        |name: String| reapi::FileNode { name, digest: Some(digest.clone()), ..Default::default() };
    let directory =
        reapi::Directory { files: vec![file("a".into()), file("b".into())], ..Default::default() };
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

fn check(bytes: &[u8]) {
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

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_refused(bytes: Vec<u8>) {
        check(&bytes);
    }

    #[test]
    fn damaged_messages_are_read_or_refused(bytes in damaged_directory()) {
        check(&bytes);
    }

    #[test]
    fn any_text_is_a_resource_name_or_refused(
        name in "(a|\\.\\.|/|blobs|uploads|compressed-blobs|zstd|sha256tree|[0-9a-f]{64}|-?[0-9]{1,20}|\\PC){0,12}"
    ) {
        if let Ok(Resource::Blob(blob)) = Resource::parse(&name) {
            prop_assert_eq!(Resource::parse(&blob.to_string()), Ok(Resource::Blob(blob)));
        }
    }
}
