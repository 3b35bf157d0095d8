//! What may be wrong with a template, and where.

use std::fmt;

use thiserror::Error;

/// A place in a template. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Position {
    /// The position of the byte at `offset` of `text`; past its end, the end.
    pub(crate) fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// `column 7`, or `line 2, column 7` past the first line.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 1 {
            write!(f, "line {}, ", self.line)?;
        }
        write!(f, "column {}", self.column)
    }
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Longer than [`MAX_TEMPLATE_BYTES`](crate::MAX_TEMPLATE_BYTES).
    #[error("template of {bytes} bytes is longer than {} bytes", crate::MAX_TEMPLATE_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not in the language.
    #[error("{position}: {what}")]
    Syntax {
        /// Where.
        position: Position,
        /// What is wrong there.
        what: String,
    },
}

/// Why a template gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EvalError {
    /// It asks for what is not there, or gives a function what it does not take.
    #[error("{position}: {what}")]
    Invalid {
        /// Where.
        position: Position,
        /// What is wrong there.
        what: String,
    },
    /// It is endless, or close to it.
    #[error("{position}: template takes too long or gives too much")]
    TooMuch {
        /// Where it was stopped.
        position: Position,
    },
}

/// A template that could not be parsed or not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Not parsed.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// Not evaluated.
    #[error(transparent)]
    Eval(#[from] EvalError),
}

/// A problem at a byte offset, before the template's text is at hand to say the line.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) what: Problem,
}

#[derive(Clone, Debug)]
pub(crate) enum Problem {
    Invalid(String),
    TooMuch,
}

impl Fault {
    pub(crate) fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: Problem::Invalid(what.into()) }
    }

    pub(crate) fn into_parse_error(self, text: &str) -> ParseError {
        let what = match self.what {
            Problem::Invalid(what) => what,
            Problem::TooMuch => "too much".to_owned(),
        };
        ParseError::Syntax { position: Position::of(text, self.at), what }
    }

    pub(crate) fn into_eval_error(self, text: &str) -> EvalError {
        let position = Position::of(text, self.at);
        match self.what {
            Problem::Invalid(what) => EvalError::Invalid { position, what },
            Problem::TooMuch => EvalError::TooMuch { position },
        }
    }
}
