//! Why a command line is refused, in one line.

use thiserror::Error;

/// What is wrong with the command line. Each displays as one line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No such flag.
    #[error("unknown flag {flag}{hint}; see --help")]
    UnknownFlag {
        /// As it was given.
        flag: String,
        /// The nearest known one, as a part of a sentence.
        hint: String,
    },
    /// A word that is neither a flag nor a subcommand.
    #[error(
        "unexpected {word:?}: flags start with --, and subcommands are {subcommands}; see --help"
    )]
    UnknownWord {
        /// As it was given.
        word: String,
        /// All that there are.
        subcommands: String,
    },
    /// A flag that takes one value was given two.
    #[error("--{flag} is given more than once: give it once")]
    Repeated {
        /// Its name.
        flag: String,
    },
    /// A flag without its value.
    #[error("--{flag} needs a value: --{flag}={example}")]
    MissingValue {
        /// Its name.
        flag: String,
        /// What a value is called in `--help`.
        example: String,
    },
    /// A value that is not one of the flag's. The value of a secret is not shown.
    #[error("--{flag}={}: {right}", one_line(value))]
    Value {
        /// Its name.
        flag: &'static str,
        /// As it was given.
        value: String,
        /// What would be right.
        right: String,
    },
    /// Flags that do not go together.
    #[error("{0}")]
    Contradiction(String),
    /// Anything else, as the parser of flags or the system says it.
    #[error("{0}")]
    Other(String),
}

impl Refusal {
    /// A value that is not one of the flag's, and what would be right.
    pub(crate) fn value(flag: &'static str, value: &str, right: impl Into<String>) -> Self {
        Self::Value { flag, value: value.to_owned(), right: right.into() }
    }
}

/// A value as it was given, but for control characters, and cut where it is very long.
fn one_line(value: &str) -> String {
    const MAX_SHOWN: usize = 200;
    let mut shown: String = value
        .chars()
        .take(MAX_SHOWN)
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect();
    if value.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}
