//! From a tree to its text.
//!
//! Promises: pure in the snapshot; ends within [`BUDGET`] steps or printed bytes, and never nests
//! deeper than [`MAX_DEPTH`]. Refuses to know how functions do their work.

use std::sync::Arc;

use crate::call::call;
use crate::error::{Fault, Problem};
use crate::function::Function;
use crate::interfaces::Interfaces;
use crate::parse::Parsed;
use crate::tree::{Base, Branch, Command, Node, Operand, Pipeline};
use crate::value::{ENTRY_WEIGHT, Value, length};

/// Steps that an evaluation may take; a step is about a byte looked at or made.
const BUDGET: u64 = 10_000_000;

/// How deep templates, blocks and parentheses may nest while they are evaluated.
const MAX_DEPTH: u32 = 150;

pub(crate) fn evaluate(parsed: &Parsed, host: &Interfaces) -> Result<String, Fault> {
    let dot = Value::Entries(host.addresses().into());
    let mut run = Run {
        parsed,
        host,
        variables: vec![("$", dot.clone())],
        output: String::new(),
        left: BUDGET,
        depth: 0,
        at: 0,
    };
    run.walk(&dot, &parsed.body)?;
    Ok(run.output)
}

/// How a list of nodes ended.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Run<'t> {
    parsed: &'t Parsed,
    host: &'t Interfaces,
    variables: Vec<(&'t str, Value)>,
    output: String,
    /// What is left of [`BUDGET`].
    left: u64,
    depth: u32,
    /// Where evaluation is, for faults that have no place of their own.
    at: usize,
}

impl<'t> Run<'t> {
    fn charge(&mut self, steps: u64) -> Result<(), Fault> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Fault { at: self.at, what: Problem::TooMuch }),
        }
    }

    fn deeper(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault { at: self.at, what: Problem::TooMuch });
        }
        Ok(())
    }

    fn print(&mut self, text: &str) -> Result<(), Fault> {
        self.charge(text.len() as u64)?;
        self.output.push_str(text);
        Ok(())
    }

    fn walk(&mut self, dot: &Value, nodes: &'t [Node]) -> Result<Flow, Fault> {
        self.deeper()?;
        let scope = self.variables.len();
        let mut flow = Flow::Next;
        for node in nodes {
            self.charge(1)?;
            flow = match node {
                Node::Text(text) => self.print(text).map(|()| Flow::Next)?,
                Node::Action(pipeline) => self.action(dot, pipeline).map(|()| Flow::Next)?,
                Node::If(branch) => self.condition(dot, branch, false)?,
                Node::With(branch) => self.condition(dot, branch, true)?,
                Node::Range(branch) => self.range(dot, branch).map(|()| Flow::Next)?,
                Node::Call { at, name, data } => {
                    self.template(dot, *at, name, data.as_ref()).map(|()| Flow::Next)?
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                break;
            }
        }
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(flow)
    }

    fn action(&mut self, dot: &Value, pipeline: &'t Pipeline) -> Result<(), Fault> {
        let value = self.pipeline(dot, pipeline)?;
        if !pipeline.variables.is_empty() {
            return Ok(());
        }
        self.charge(value.weight())?;
        match value {
            Value::Nil => self.print("<no value>"),
            value => self.print(&value.to_string()),
        }
    }

    fn condition(&mut self, dot: &Value, branch: &'t Branch, with: bool) -> Result<Flow, Fault> {
        let scope = self.variables.len();
        let value = self.pipeline(dot, &branch.pipeline)?;
        let flow = match value.is_true() {
            true if with => self.walk(&value, &branch.body)?,
            true => self.walk(dot, &branch.body)?,
            false => self.walk(dot, &branch.otherwise)?,
        };
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn range(&mut self, dot: &Value, branch: &'t Branch) -> Result<(), Fault> {
        let scope = self.variables.len();
        // The variables of a range take its items, not the whole.
        let whole = self.commands(dot, &branch.pipeline)?;
        let items: Box<dyn Iterator<Item = Value>> = match whole {
            Value::Nil => Box::new(std::iter::empty()),
            Value::Int(count) => Box::new((0..count).map(Value::Int)),
            Value::Entries(entries) => {
                Box::new((0..entries.len()).map(move |index| Value::Entry(entries[index].clone())))
            }
            Value::Octets(octets) => {
                Box::new((0..octets.len()).map(move |index| Value::Int(octets[index].into())))
            }
            other => {
                let what = format!("cannot range over {}", other.kind());
                return Err(Fault::new(branch.pipeline.at, what));
            }
        };
        let mut count = 0;
        for item in items {
            self.charge(8)?;
            self.set_item(&branch.pipeline, count, &item);
            count += 1;
            let flow = self.walk(&item, &branch.body)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        if count == 0 {
            self.walk(dot, &branch.otherwise)?;
        }
        Ok(())
    }

    fn set_item(&mut self, pipeline: &'t Pipeline, index: usize, item: &Value) {
        let index = Value::Int(length(index));
        let values = match pipeline.variables.len() {
            2 => vec![index, item.clone()],
            1 => vec![item.clone()],
            _ => Vec::new(),
        };
        for (name, value) in pipeline.variables.iter().zip(values) {
            self.set(name, value, pipeline.declares);
        }
    }

    fn template(
        &mut self,
        dot: &Value,
        at: usize,
        name: &str,
        data: Option<&'t Pipeline>,
    ) -> Result<(), Fault> {
        let data = data.map_or(Ok(Value::Nil), |pipeline| self.pipeline(dot, pipeline))?;
        self.at = at;
        let Some(body) = self.parsed.defined.get(name) else {
            return Err(Fault::new(at, format!("template {name:?} is not defined")));
        };
        let outer = std::mem::replace(&mut self.variables, vec![("$", data.clone())]);
        self.walk(&data, body)?;
        self.variables = outer;
        Ok(())
    }

    fn set(&mut self, name: &'t str, value: Value, declares: bool) {
        let place = self.variables.iter_mut().rev().find(|(known, _)| *known == name);
        match place {
            Some((_, place)) if !declares => *place = value,
            _ => self.variables.push((name, value)),
        }
    }

    /// The pipeline's value, which its variable takes too.
    fn pipeline(&mut self, dot: &Value, pipeline: &'t Pipeline) -> Result<Value, Fault> {
        let value = self.commands(dot, pipeline)?;
        if let Some(name) = pipeline.variables.first() {
            self.set(name, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn commands(&mut self, dot: &Value, pipeline: &'t Pipeline) -> Result<Value, Fault> {
        self.deeper()?;
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(dot, command, piped)?);
        }
        self.depth -= 1;
        Ok(piped.unwrap_or(Value::Nil))
    }

    fn command(
        &mut self,
        dot: &Value,
        command: &'t Command,
        piped: Option<Value>,
    ) -> Result<Value, Fault> {
        let first = &command.first;
        self.at = first.at;
        self.charge(1)?;
        match (&first.base, first.fields.split_last()) {
            (Base::Function(function @ (Function::And | Function::Or)), None) => {
                self.short_circuit(dot, *function, command, piped)
            }
            (Base::Function(function), None) => {
                let arguments = self.arguments(dot, command, piped)?;
                self.function(first.at, *function, &arguments)
            }
            // Arguments belong to the last of several fields.
            (_, Some((last, inner))) => {
                let base = self.base(dot, first)?;
                let owner = members(base, inner).map_err(|what| Fault::new(first.at, what))?;
                let arguments = self.arguments(dot, command, piped)?;
                owner.member(last, &arguments).map_err(|what| Fault::new(first.at, what))
            }
            _ => self.operand(dot, first),
        }
    }

    fn arguments(
        &mut self,
        dot: &Value,
        command: &'t Command,
        piped: Option<Value>,
    ) -> Result<Vec<Value>, Fault> {
        let mut arguments = Vec::with_capacity(command.arguments.len() + 1);
        for argument in &command.arguments {
            self.charge(1)?;
            arguments.push(self.operand(dot, argument)?);
        }
        arguments.extend(piped);
        Ok(arguments)
    }

    fn function(&mut self, at: usize, function: Function, args: &[Value]) -> Result<Value, Fault> {
        self.at = at;
        self.charge(cost(function, args, self.host))?;
        let value = call(function, args, self.host).map_err(|what| Fault::new(at, what))?;
        self.charge(value.weight())?;
        Ok(value)
    }

    /// `and` and `or` evaluate no more arguments than they need.
    fn short_circuit(
        &mut self,
        dot: &Value,
        function: Function,
        command: &'t Command,
        piped: Option<Value>,
    ) -> Result<Value, Fault> {
        let count = command.arguments.len() + usize::from(piped.is_some());
        let at = command.first.at;
        function.check_count(count).map_err(|what| Fault::new(at, what))?;
        let mut value = Value::Nil;
        for argument in &command.arguments {
            value = self.operand(dot, argument)?;
            if value.is_true() == (function == Function::Or) {
                return Ok(value);
            }
        }
        Ok(piped.unwrap_or(value))
    }

    fn operand(&mut self, dot: &Value, operand: &'t Operand) -> Result<Value, Fault> {
        let base = self.base(dot, operand)?;
        members(base, &operand.fields).map_err(|what| Fault::new(operand.at, what))
    }

    fn base(&mut self, dot: &Value, operand: &'t Operand) -> Result<Value, Fault> {
        match &operand.base {
            Base::Dot => Ok(dot.clone()),
            Base::Nil => Ok(Value::Nil),
            Base::Bool(value) => Ok(Value::Bool(*value)),
            Base::Int(value) => Ok(Value::Int(*value)),
            Base::Float(value) => Ok(Value::Float(*value)),
            Base::Str(text) => {
                self.charge(text.len() as u64)?;
                Ok(Value::Str(Arc::from(text.as_str())))
            }
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let undefined = || Fault::new(operand.at, format!("undefined variable {name:?}"));
                found.map(|(_, value)| value.clone()).ok_or_else(undefined)
            }
            Base::Function(function) => self.function(operand.at, *function, &[]),
            Base::Pipeline(pipeline) => {
                let scope = self.variables.len();
                let value = self.pipeline(dot, pipeline)?;
                self.variables.truncate(scope);
                Ok(value)
            }
        }
    }
}

/// Follows fields that take no arguments.
fn members(value: Value, fields: &[String]) -> Result<Value, String> {
    fields.iter().try_fold(value, |value, field| value.member(field, &[]))
}

/// What a call costs at most, but for the value that it gives.
fn cost(function: Function, arguments: &[Value], host: &Interfaces) -> u64 {
    let given: u64 = arguments.iter().map(Value::weight).sum();
    let addresses = host.addresses().len() as u64;
    match function {
        // Quadratic in the worst case.
        Function::Sort => given + (given / ENTRY_WEIGHT).pow(2) / 2,
        // Regular expressions are compiled.
        Function::Include | Function::Exclude => given.saturating_mul(4) + 20_000,
        Function::GetInterfaceIp | Function::GetInterfaceIps => {
            given + 20_000 + addresses * ENTRY_WEIGHT
        }
        // The separator is repeated.
        Function::Join => match arguments {
            [_, separator, Value::Entries(entries)] => {
                given.saturating_add(separator.weight().saturating_mul(entries.len() as u64))
            }
            _ => given,
        },
        Function::Printf => {
            given.saturating_mul(4).saturating_add(crate::format::padding(arguments))
        }
        _ if arguments.is_empty() => addresses * ENTRY_WEIGHT,
        _ => given.saturating_mul(4),
    }
}
