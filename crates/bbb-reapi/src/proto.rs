//! Generated types, under short names.

pub use bazel_remote_apis::{
    build::bazel::{
        remote::{asset::v1 as asset, execution::v2 as reapi, logstream::v1 as logstream},
        semver,
    },
    google::{bytestream, longrunning, protobuf, rpc},
};
