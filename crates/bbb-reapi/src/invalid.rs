/// A message that breaks a rule: which field, and what is wrong with it.
///
/// It becomes INVALID_ARGUMENT with a `BadRequest` detail at the door.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct Invalid {
    /// The path of the field, in the notation of `google.rpc.BadRequest.FieldViolation.field`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub what: String,
}

impl Invalid {
    /// The field `field` breaks the rule told by `what`.
    pub fn new(field: impl Into<String>, what: impl ToString) -> Self {
        Self { field: field.into(), what: what.to_string() }
    }

    /// The same, seen from the message that holds `parent`.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}
