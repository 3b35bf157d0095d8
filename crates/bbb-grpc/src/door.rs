//! What the services in front of the stores share.

use std::{fmt, sync::Arc};

use bbb_digest::{Digest, InstanceName, InstanceNameError};
use bbb_reapi::{Invalid, parts};
use bbb_storage::{Instances, Stores};
use tonic::Status;

use crate::{Budget, status::IntoStatus as _, wire::Wire};

/// A message that cannot be decoded is the client's fault.
pub(crate) fn undecodable(error: impl fmt::Display) -> Status {
    Invalid::new("message", format!("cannot be decoded: {error}")).into_status()
}

/// Refuses a message that would take many times its own memory once it is decoded.
pub(crate) fn check_parts(shape: &parts::Shape, message: &[u8]) -> Result<(), Status> {
    parts::check_called(shape, message).map_err(|invalid| invalid.into_status())
}

/// The way from a request to the stores of its instance.
#[derive(Clone, Debug)]
pub struct Door {
    /// How requests are read.
    pub wire: Wire,
    /// The memory of replies that hold blobs, until they are sent.
    pub replies: Budget,
    /// The stores.
    pub instances: Arc<Instances>,
    /// The largest blob that is taken, in bytes.
    pub max_blob_bytes: u64,
}

impl Door {
    /// The instance that a message names.
    pub(crate) fn instance(&self, name: &str) -> Result<InstanceName, Status> {
        let parsed: Result<InstanceName, InstanceNameError> = name.parse();
        parsed.map_err(|error| Invalid::new("instance_name", error).into_status())
    }

    /// The stores of the instance that a message names.
    pub(crate) fn stores(&self, instance_name: &str) -> Result<Stores, Status> {
        Ok(self.instances.get(&self.instance(instance_name)?))
    }

    /// Refuses a blob that is larger than any that is taken.
    pub(crate) fn check_size(&self, digest: &Digest) -> Result<(), Invalid> {
        match digest.size_bytes() > self.max_blob_bytes {
            true => {
                let what = format!(
                    "{} bytes are more than the {} that a blob may have here",
                    digest.size_bytes(),
                    self.max_blob_bytes
                );
                Err(Invalid::new("digest.size_bytes", what))
            }
            false => Ok(()),
        }
    }
}
