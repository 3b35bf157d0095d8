//! A parsed template: plain data between the parser and the evaluator.

use crate::function::Function;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    Range(Branch),
    With(Branch),
    Break,
    Continue,
    /// `{{template "name" pipeline}}`, also what is left of a `{{block}}`.
    Call {
        at: usize,
        name: String,
        data: Option<Pipeline>,
    },
}

/// A condition or a list, with what is done where it holds and where it does not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Branch {
    pub(crate) pipeline: Pipeline,
    pub(crate) body: Vec<Node>,
    pub(crate) otherwise: Vec<Node>,
}

/// Commands, each given the value of the one before as its last argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pipeline {
    pub(crate) at: usize,
    /// Variables that take the value: at most one, or two in a range.
    pub(crate) variables: Vec<String>,
    /// `:=` rather than `=`.
    pub(crate) declares: bool,
    /// Never empty.
    pub(crate) commands: Vec<Command>,
}

/// An operand, or a function or method with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) first: Operand,
    pub(crate) arguments: Vec<Operand>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operand {
    pub(crate) at: usize,
    pub(crate) base: Base,
    /// Fields after it: `.A.B` is [`Base::Dot`] with two.
    pub(crate) fields: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Base {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Variable(String),
    Function(Function),
    Pipeline(Box<Pipeline>),
}
