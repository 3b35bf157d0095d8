//! What can go wrong with one call, and the tally of it.

use std::collections::BTreeMap;

use tonic::Code;

/// Why a call does not count as done.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The server answered with a status other than OK.
    #[error("{code:?}: {message}")]
    Status {
        /// The gRPC code.
        code: Code,
        /// The server's message.
        message: String,
    },
    /// The connection was refused or broke; the call may have happened.
    #[error("connection: {0}")]
    Connection(String),
    /// The answer came, and is not what was asked for.
    #[error("wrong answer: {0}")]
    Wrong(String),
    /// No answer within the deadline of a call.
    #[error("no answer within {0} s")]
    Late(u64),
}

impl Failure {
    /// A [`Failure::Wrong`] with this story.
    pub(crate) fn wrong(story: impl Into<String>) -> Self {
        Self::Wrong(story.into())
    }

    /// A [`Failure::Connection`] out of any error, its causes included.
    pub(crate) fn connection(error: &dyn std::error::Error) -> Self {
        let mut story = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            story.push_str(": ");
            story.push_str(&error.to_string());
            cause = error.source();
        }
        Self::Connection(story)
    }

    /// Refuses a `google.rpc.Status` that is not OK.
    pub(crate) fn check(status: Option<&bbb_reapi::proto::rpc::Status>) -> Result<(), Self> {
        match status {
            Some(status) if status.code != 0 => Err(Self::Status {
                code: Code::from_i32(status.code),
                message: status.message.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The class under which failures are counted.
    fn class(&self) -> String {
        match self {
            Self::Status { code, .. } => format!("{code:?}"),
            Self::Connection(_) => "connection".to_owned(),
            Self::Wrong(_) => "wrong answer".to_owned(),
            Self::Late(_) => "late".to_owned(),
        }
    }
}

/// Failures by class, with the first story of each. There are at most as many classes as gRPC codes and variants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(BTreeMap<String, (u64, String)>);

impl Failures {
    /// Counts one failure.
    pub(crate) fn add(&mut self, failure: &Failure) {
        self.0.entry(failure.class()).or_insert_with(|| (0, failure.to_string())).0 += 1;
    }

    /// Takes in what another tally has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (class, (count, story)) in &other.0 {
            self.0.entry(class.clone()).or_insert_with(|| (0, story.clone())).0 += count;
        }
    }

    /// How many failures there were in all.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }

    /// Class, count and first story of each class.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        self.0.iter().map(|(class, (count, story))| (class.as_str(), *count, story.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_class_and_keep_the_first_story() {
        let mut failures = Failures::default();
        failures.add(&Failure::wrong("first"));
        failures.add(&Failure::wrong("second"));
        let mut other = Failures::default();
        other.add(&Failure::Status { code: Code::Internal, message: "channel closed".into() });
        other.add(&Failure::wrong("third"));
        failures.merge(&other);
        assert_eq!(failures.total(), 4);
        let classes: Vec<_> = failures.classes().collect();
        assert_eq!(
            classes,
            [
                ("Internal", 1, "Internal: channel closed"),
                ("wrong answer", 3, "wrong answer: first")
            ]
        );
    }
}
