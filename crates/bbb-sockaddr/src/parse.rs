//! From tokens to the tree: the grammar of Go's text/template.
//!
//! Promises: never panics, bounds nesting, refuses unknown functions and variables with their place.
//! Templates made with `define` and `block` are collected by name. Refuses to know values.

use std::collections::BTreeMap;

use crate::error::Fault;
use crate::function::{Function, nearest};
use crate::lex::{Kind, Token, Word};
use crate::tree::{Base, Branch, Command, Node, Operand, Pipeline};

/// How deep blocks and parentheses may nest.
const MAX_NESTING: usize = 50;

/// A whole template: its body, and those that it defines.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Parsed {
    pub(crate) body: Vec<Node>,
    pub(crate) defined: BTreeMap<String, Vec<Node>>,
}

pub(crate) fn parse(tokens: &[Token]) -> Result<Parsed, Fault> {
    let mut parser = Parser {
        tokens,
        next: 0,
        variables: vec!["$".to_owned()],
        defined: BTreeMap::new(),
        nesting: 0,
        in_range: 0,
    };
    let (body, stop) = parser.nodes()?;
    match stop {
        Stop::EndOfText => Ok(Parsed { body, defined: parser.defined }),
        Stop::End => Err(parser.fault("{{end}} without if, range, with, define or block")),
        Stop::Else => Err(parser.fault("{{else}} without if, range or with")),
    }
}

/// What ended a list of nodes. For `else` the word is taken, the rest of its action is not.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    EndOfText,
    End,
    Else,
}

struct Parser<'t> {
    tokens: &'t [Token],
    next: usize,
    /// Variables in scope.
    variables: Vec<String>,
    defined: BTreeMap<String, Vec<Node>>,
    nesting: usize,
    in_range: usize,
}

impl Parser<'_> {
    fn at(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(0, |token| token.at)
    }

    /// A fault at the token before this one.
    fn fault(&self, what: impl Into<String>) -> Fault {
        let token = self.tokens.get(self.next.saturating_sub(1));
        Fault::new(token.map_or(0, |token| token.at), what)
    }

    fn fault_here(&self, what: impl Into<String>) -> Fault {
        Fault::new(self.at(), what)
    }

    fn peek(&self) -> &Kind {
        self.tokens.get(self.next).map_or(&Kind::End, |token| &token.kind)
    }

    fn peek_word(&self) -> Option<&Word> {
        match self.peek() {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    fn skip_space(&mut self) {
        while *self.peek() == Kind::Space {
            self.next += 1;
        }
    }

    /// Takes the word if it is this one.
    fn take(&mut self, word: &Word) -> bool {
        let found = self.peek_word() == Some(word);
        self.next += usize::from(found);
        found
    }

    fn take_name(&mut self, name: &str) -> bool {
        let found = matches!(self.peek_word(), Some(Word::Name(word)) if word == name);
        self.next += usize::from(found);
        found
    }

    fn close(&mut self, what: &str) -> Result<(), Fault> {
        self.skip_space();
        if *self.peek() != Kind::Close {
            return Err(self.fault_here(format!("unexpected {} in {what}", self.describe())));
        }
        self.next += 1;
        Ok(())
    }

    /// What stands here, for messages.
    fn describe(&self) -> String {
        match self.peek() {
            Kind::Text(_) => "text".to_owned(),
            Kind::Open => "{{".to_owned(),
            Kind::Close => "}}".to_owned(),
            Kind::Space => "white space".to_owned(),
            Kind::End => "end".to_owned(),
            Kind::Word(word) => match word {
                Word::Dot => "\".\"".to_owned(),
                Word::Field(name) => format!("\".{name}\""),
                Word::Variable(name) | Word::Name(name) => format!("{name:?}"),
                Word::Str(text) => format!("string {text:?}"),
                Word::Int(value) => format!("number {value}"),
                Word::Float(value) => format!("number {value}"),
                Word::Pipe => "\"|\"".to_owned(),
                Word::Comma => "\",\"".to_owned(),
                Word::LeftParen => "\"(\"".to_owned(),
                Word::RightParen => "\")\"".to_owned(),
                Word::Declare => "\":=\"".to_owned(),
                Word::Assign => "\"=\"".to_owned(),
            },
        }
    }

    fn nest(&mut self) -> Result<(), Fault> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.fault_here(format!("nested more than {MAX_NESTING} deep")));
        }
        Ok(())
    }

    /// Nodes up to an `end`, an `else` or the end of the text.
    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), Fault> {
        let mut nodes = Vec::new();
        loop {
            match self.peek() {
                Kind::Text(text) => {
                    nodes.push(Node::Text(text.clone()));
                    self.next += 1;
                }
                Kind::Open => {
                    self.next += 1;
                    self.skip_space();
                    if self.take_name("end") {
                        self.close("end")?;
                        return Ok((nodes, Stop::End));
                    }
                    if self.take_name("else") {
                        return Ok((nodes, Stop::Else));
                    }
                    nodes.extend(self.action()?);
                }
                _ => return Ok((nodes, Stop::EndOfText)),
            }
        }
    }

    /// An action that is neither `end` nor `else`.
    fn action(&mut self) -> Result<Option<Node>, Fault> {
        let at = self.at();
        let keyword = match self.peek_word() {
            Some(Word::Name(name)) => name.clone(),
            _ => String::new(),
        };
        let is_keyword = matches!(
            keyword.as_str(),
            "if" | "range" | "with" | "define" | "block" | "template" | "break" | "continue"
        );
        self.next += usize::from(is_keyword);
        match keyword.as_str() {
            "if" => Ok(Some(Node::If(self.branch(&keyword)?))),
            "with" => Ok(Some(Node::With(self.branch(&keyword)?))),
            "range" => {
                self.in_range += 1;
                let branch = self.branch(&keyword);
                self.in_range -= 1;
                Ok(Some(Node::Range(branch?)))
            }
            "break" | "continue" => {
                self.close(&keyword)?;
                if self.in_range == 0 {
                    return Err(Fault::new(at, format!("{{{{{keyword}}}}} outside of a range")));
                }
                Ok(Some(if keyword == "break" { Node::Break } else { Node::Continue }))
            }
            "define" => self.define(at).map(|()| None),
            "block" => {
                let name = self.template_name(&keyword)?;
                let data = self.pipeline(&keyword, false)?;
                self.close(&keyword)?;
                self.definition(at, &name, &keyword)?;
                Ok(Some(Node::Call { at, name, data: Some(data) }))
            }
            "template" => {
                let name = self.template_name(&keyword)?;
                self.skip_space();
                let empty = *self.peek() == Kind::Close;
                let data = if empty { None } else { Some(self.pipeline(&keyword, false)?) };
                self.close(&keyword)?;
                Ok(Some(Node::Call { at, name, data }))
            }
            _ => {
                let pipeline = self.pipeline("action", false)?;
                self.close("action")?;
                Ok(Some(Node::Action(pipeline)))
            }
        }
    }

    fn template_name(&mut self, keyword: &str) -> Result<String, Fault> {
        self.skip_space();
        let Some(Word::Str(name)) = self.peek_word() else {
            let what = format!("{keyword} needs a name in quotes, not {}", self.describe());
            return Err(self.fault_here(what));
        };
        let name = name.clone();
        self.next += 1;
        Ok(name)
    }

    fn define(&mut self, at: usize) -> Result<(), Fault> {
        if self.nesting > 0 {
            return Err(Fault::new(at, "{{define}} inside of another action"));
        }
        let name = self.template_name("define")?;
        self.close("define")?;
        self.definition(at, &name, "define")
    }

    /// The body of a `define` or `block`, which sees no variables but `$`.
    fn definition(&mut self, at: usize, name: &str, keyword: &str) -> Result<(), Fault> {
        self.nest()?;
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let in_range = std::mem::take(&mut self.in_range);
        let (body, stop) = self.nodes()?;
        self.variables = outer;
        self.in_range = in_range;
        self.nesting -= 1;
        match stop {
            Stop::End => {}
            Stop::Else => return Err(self.fault(format!("{{{{else}}}} in {keyword}"))),
            Stop::EndOfText => {
                return Err(Fault::new(at, format!("{keyword} without {{{{end}}}}")));
            }
        }
        if self.defined.insert(name.to_owned(), body).is_some() {
            return Err(Fault::new(at, format!("template {name:?} is defined twice")));
        }
        Ok(())
    }

    /// What follows `if`, `range` or `with`, up to and with its `end`.
    fn branch(&mut self, keyword: &str) -> Result<Branch, Fault> {
        let at = self.tokens[self.next - 1].at;
        self.nest()?;
        let scope = self.variables.len();
        let pipeline = self.pipeline(keyword, keyword == "range")?;
        self.close(keyword)?;
        let of_pipeline = self.variables.len();
        let (body, mut stop) = self.nodes()?;
        self.variables.truncate(of_pipeline);
        let mut otherwise = Vec::new();
        if stop == Stop::Else {
            self.skip_space();
            // `else if` and `else with` are a branch in the else that shares its end.
            if keyword != "range" && self.take_name(keyword) {
                let branch = self.branch(keyword)?;
                otherwise.push(if keyword == "if" { Node::If(branch) } else { Node::With(branch) });
                stop = Stop::End;
            } else {
                self.close("else")?;
                (otherwise, stop) = self.nodes()?;
            }
        }
        self.variables.truncate(scope);
        self.nesting -= 1;
        match stop {
            Stop::End => Ok(Branch { pipeline, body, otherwise }),
            Stop::Else => Err(self.fault(format!("second {{{{else}}}} in {keyword}"))),
            Stop::EndOfText => Err(Fault::new(at, format!("{keyword} without {{{{end}}}}"))),
        }
    }

    /// Up to, and without, the `}}` or `)` behind it.
    fn pipeline(&mut self, context: &str, range: bool) -> Result<Pipeline, Fault> {
        self.skip_space();
        let at = self.at();
        let (variables, declares) = self.declaration(range)?;
        let mut commands = Vec::new();
        loop {
            self.skip_space();
            let ends = matches!(self.peek(), Kind::Close | Kind::End)
                || matches!(self.peek_word(), Some(Word::RightParen | Word::Pipe));
            if ends {
                let what = format!("missing value in {context}, found {}", self.describe());
                return Err(self.fault_here(what));
            }
            let command_at = self.at();
            let command = self.command()?;
            if !commands.is_empty() && !command.first.can_take_value() {
                let what = "only a function, field or method can take a piped value";
                return Err(Fault::new(command_at, what));
            }
            commands.push(command);
            self.skip_space();
            if !self.take(&Word::Pipe) {
                break;
            }
        }
        // A variable is in scope behind its own pipeline.
        if declares {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline { at, variables, declares, commands })
    }

    /// `$x :=`, `$x =`, and `$i, $x :=` in a range; nothing else is taken.
    fn declaration(&mut self, range: bool) -> Result<(Vec<String>, bool), Fault> {
        let start = self.next;
        let mut variables = Vec::new();
        while let Some(Word::Variable(name)) = self.peek_word() {
            let (name, at) = (name.clone(), self.at());
            self.next += 1;
            variables.push((name, at));
            self.skip_space();
            let declares = self.take(&Word::Declare);
            if declares || self.take(&Word::Assign) {
                let unknown = variables.iter().find(|(name, _)| !self.variables.contains(name));
                if let Some((name, at)) = unknown.filter(|_| !declares) {
                    return Err(Fault::new(*at, format!("undefined variable {name:?}")));
                }
                return Ok((variables.into_iter().map(|(name, _)| name).collect(), declares));
            }
            if !(range && variables.len() == 1 && self.take(&Word::Comma)) {
                break;
            }
            self.skip_space();
        }
        self.next = start;
        Ok((Vec::new(), false))
    }

    fn command(&mut self) -> Result<Command, Fault> {
        let first = self.operand()?;
        let mut arguments = Vec::new();
        while *self.peek() == Kind::Space {
            self.skip_space();
            let ends = matches!(self.peek(), Kind::Close | Kind::End)
                || matches!(self.peek_word(), Some(Word::Pipe | Word::RightParen));
            if ends {
                break;
            }
            arguments.push(self.operand()?);
        }
        let ends = matches!(self.peek(), Kind::Close | Kind::End)
            || matches!(self.peek_word(), Some(Word::Pipe | Word::RightParen));
        if !ends {
            return Err(self.fault_here(format!("unexpected {}", self.describe())));
        }
        if !arguments.is_empty() && !first.can_take_value() {
            let what = "only a function, field or method can take arguments";
            return Err(Fault::new(first.at, what));
        }
        if first.base == Base::Nil {
            return Err(Fault::new(first.at, "nil is no command"));
        }
        Ok(Command { first, arguments })
    }

    /// A value with the fields that follow it without a space.
    fn operand(&mut self) -> Result<Operand, Fault> {
        let at = self.at();
        let mut fields = Vec::new();
        let base = match self.peek_word().cloned() {
            Some(Word::Dot) => Base::Dot,
            Some(Word::Field(name)) => {
                fields.push(name);
                Base::Dot
            }
            Some(Word::Str(text)) => Base::Str(text),
            Some(Word::Int(value)) => Base::Int(value),
            Some(Word::Float(value)) => Base::Float(value),
            Some(Word::Variable(name)) if self.variables.contains(&name) => Base::Variable(name),
            Some(Word::Variable(name)) => {
                return Err(Fault::new(at, format!("undefined variable {name:?}")));
            }
            Some(Word::Name(name)) => named(at, &name)?,
            Some(Word::LeftParen) => return self.parenthesized(at),
            _ => return Err(self.fault_here(format!("unexpected {}", self.describe()))),
        };
        self.next += 1;
        let takes_fields =
            !fields.is_empty() || matches!(base, Base::Variable(_) | Base::Function(_));
        if !takes_fields && matches!(self.peek_word(), Some(Word::Field(_) | Word::Dot)) {
            return Err(self.fault_here(format!("unexpected {} after a value", self.describe())));
        }
        self.fields(&mut fields);
        Ok(Operand { at, base, fields })
    }

    fn parenthesized(&mut self, at: usize) -> Result<Operand, Fault> {
        self.next += 1;
        self.nest()?;
        let pipeline = self.pipeline("parentheses", false)?;
        self.nesting -= 1;
        if !self.take(&Word::RightParen) {
            return Err(Fault::new(at, "\"(\" without \")\""));
        }
        let mut fields = Vec::new();
        self.fields(&mut fields);
        Ok(Operand { at, base: Base::Pipeline(Box::new(pipeline)), fields })
    }

    fn fields(&mut self, fields: &mut Vec<String>) {
        while let Some(Word::Field(name)) = self.peek_word() {
            fields.push(name.clone());
            self.next += 1;
        }
    }
}

fn named(at: usize, name: &str) -> Result<Base, Fault> {
    match name {
        "true" => Ok(Base::Bool(true)),
        "false" => Ok(Base::Bool(false)),
        "nil" => Ok(Base::Nil),
        "if" | "range" | "with" | "define" | "block" | "template" | "break" | "continue"
        | "end" | "else" => Err(Fault::new(at, format!("unexpected {{{{{name}}}}} here"))),
        _ => Function::of_name(name).map(Base::Function).ok_or_else(|| {
            let hint =
                nearest(name).map_or(String::new(), |near| format!(", did you mean {near}?"));
            Fault::new(at, format!("unknown function {name:?}{hint}"))
        }),
    }
}

impl Operand {
    /// Whether it may be given arguments, or stand behind a `|`.
    fn can_take_value(&self) -> bool {
        !self.fields.is_empty() || matches!(self.base, Base::Function(_))
    }
}
