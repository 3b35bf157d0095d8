//! Remote Execution API messages, and their way into values that cannot be wrong.
//!
//! Wire types live under [`proto`], as a crate of generated code provides them. What the lower rooms work
//! with are the values beside it: an [`Action`], a [`Command`], a [`Directory`], an [`OutputPath`], a
//! [`BlobResource`]. Each has one way in, which checks all that the API's comments ask for and all that a
//! hostile client could try, and names the field that is wrong.
//!
//! The room knows nothing of gRPC, storage or files.

mod action;
mod command;
pub mod decimal;
mod digest;
mod directory;
#[cfg(any(test, feature = "hostile"))]
pub mod hostile;
mod invalid;
mod log;
mod metadata;
pub mod parts;
mod path;
mod resource;
mod time;
mod tree;

pub mod proto;
pub mod status;

pub use action::Action;
pub use command::{Command, Output, OutputDirectoryFormat, Outputs, Properties};
pub use digest::{
    ToProto, announced_function, digest, function_code, requested_function, required_digest,
};
pub use directory::{Directory, DirectoryNode, FileNode, NodeProperties, SymlinkNode};
pub use invalid::Invalid;
pub use log::{Channel, LogHost, LogId, LogResource, LogWriteResource};
pub use metadata::{REQUEST_METADATA_HEADER, RequestMetadata};
pub use path::{FileName, OutputPath};
pub use resource::{BlobResource, Compressor, Resource, UploadResource};
pub use time::{duration, timestamp, to_duration, to_system_time, to_timestamp};
pub use tree::{Tree, TreeBuilder};
