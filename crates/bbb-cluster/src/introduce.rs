//! The seam through which members get to know each other.
//!
//! Gossip says that a node lives; whether it is of this cluster, and what it offers, it is asked itself. The room that
//! holds connections between nodes implements it.

use std::error::Error;

use async_trait::async_trait;

use crate::{Member, MemberId, Properties};

/// Asks members who they are.
#[async_trait]
pub trait Introduce: Send + Sync + 'static {
    /// Tells the member `to` who `me` is and asks what it says of itself.
    ///
    /// Its answer is waited for at most [`INTRODUCTION_TIMEOUT`](crate::INTRODUCTION_TIMEOUT): the future is dropped
    /// then. It is called again every few seconds for each member, so a connection is worth keeping.
    ///
    /// # Errors
    /// [`IntroduceError::Unreachable`] if it gave no answer, [`IntroduceError::Refused`] if the answer, or its lack of a
    /// right one, says that it is not of this cluster.
    async fn introduce(&self, me: &Member, to: &MemberId) -> Result<Properties, IntroduceError>;
}

/// A member was not introduced.
#[derive(Debug, thiserror::Error)]
pub enum IntroduceError {
    /// It did not answer now: it is asked again soon.
    #[error("the node gives no answer")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// It is not of this cluster: the reason, in one line. It is asked again now and then.
    #[error("the node is not of this cluster: {0}")]
    Refused(String),
}
