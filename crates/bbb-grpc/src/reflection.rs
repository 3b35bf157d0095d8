//! gRPC reflection: what services there are and what their messages look like, for tools such as grpcurl.
//!
//! The crate of generated code carries no descriptors, so `proto/` holds the names and numbers of the
//! interfaces once more; a test holds them against the generated code.

use tonic_reflection::server::{
    Builder, Error,
    v1::{ServerReflection, ServerReflectionServer},
    v1alpha,
};

/// The encoded `FileDescriptorSet` of the interfaces.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The service as it is now.
///
/// # Errors
/// If the descriptors cannot be read, which a test rules out.
pub fn v1() -> Result<ServerReflectionServer<impl ServerReflection>, Error> {
    builder().build_v1()
}

/// The service as older tools know it.
///
/// # Errors
/// As [`v1`].
pub fn v1alpha() -> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, Error> {
    builder().build_v1alpha()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bbb_reapi::proto::reapi;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_service_is_described() {
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let services = set.file.iter().flat_map(|file| {
            file.service.iter().map(|service| format!("{}.{}", file.package(), service.name()))
        });
        let services: BTreeSet<_> = services.collect();
        for name in [
            crate::capabilities::NAME,
            crate::cas::NAME,
            crate::action_cache::NAME,
            crate::bytestream::NAME,
            "build.bazel.remote.execution.v2.Execution",
            "build.bazel.remote.asset.v1.Fetch",
            "build.bazel.remote.asset.v1.Push",
            "google.longrunning.Operations",
        ] {
            assert!(services.contains(name), "{name}");
        }
        assert!(v1().is_ok() && v1alpha().is_ok());
    }

    #[test]
    fn fields_have_the_numbers_of_the_generated_code() {
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let messages: Vec<_> = set.file.iter().flat_map(|file| &file.message_type).collect();
        let number = |message: &str, field: &str| {
            let message = messages.iter().find(|found| found.name() == message).unwrap();
            message.field.iter().find(|found| found.name() == field).unwrap().number()
        };
        // One field set in the generated type, its key read back from the wire.
        let key = |bytes: Vec<u8>| i32::from(bytes[0] >> 3);
        let action = reapi::Action { do_not_cache: true, ..Default::default() };
        assert_eq!(key(action.encode_to_vec()), number("Action", "do_not_cache"));
        let result = reapi::ActionResult { exit_code: 1, ..Default::default() };
        assert_eq!(key(result.encode_to_vec()), number("ActionResult", "exit_code"));
        let request = reapi::ExecuteRequest { skip_cache_lookup: true, ..Default::default() };
        assert_eq!(key(request.encode_to_vec()), number("ExecuteRequest", "skip_cache_lookup"));
    }
}
