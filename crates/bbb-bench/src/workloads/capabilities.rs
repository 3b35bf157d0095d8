//! GetCapabilities: the smallest call there is.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Needs, Row};
use crate::drive::{Calls, Plan, Workload};
use crate::failure::Failure;
use crate::target::Target;

struct GetCapabilities;

pub(super) fn row() -> Row {
    Row::new("get-capabilities", "GetCapabilities", GetCapabilities)
        .needs(Needs::Bare)
        .at_once(&[64])
}

#[async_trait]
impl Workload for GetCapabilities {
    async fn prepare(&self, _: &Target, _: &Plan) -> Result<Arc<dyn Calls>, Failure> {
        Ok(Arc::new(Self))
    }
}

#[async_trait]
impl Calls for GetCapabilities {
    async fn call(&self, target: &Target, _: u64) -> Result<u64, Failure> {
        match target.capabilities().await?.cache_capabilities {
            Some(_) => Ok(0),
            None => Err(Failure::wrong("no cache capabilities")),
        }
    }
}
