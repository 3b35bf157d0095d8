//! Every function of the language but `and` and `or`, from its arguments to its value.
//!
//! Promises: pure, never panics; what is wrong with an argument is said with the function's name.

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::address::ip_text;
use crate::format;
use crate::function::Function;
use crate::interfaces::{InterfaceAddress, Interfaces};
use crate::select;
use crate::value::{Value, attribute_of, length};

/// # Errors
/// With the function's name and what is wrong.
pub(crate) fn call(
    function: Function,
    arguments: &[Value],
    host: &Interfaces,
) -> Result<Value, String> {
    function.check_count(arguments.len())?;
    let args = Arguments(arguments);
    evaluate(function, args, host).map_err(|what| format!("{}: {what}", function.name()))
}

fn evaluate(function: Function, args: Arguments<'_>, host: &Interfaces) -> Result<Value, String> {
    match function {
        Function::GetAllInterfaces => Ok(Value::Entries(host.addresses().into())),
        Function::GetDefaultInterfaces => Ok(Value::entries(select::default_interfaces(host))),
        Function::GetPrivateInterfaces => {
            Ok(Value::entries(select::forwardable_interfaces(host, true)))
        }
        Function::GetPublicInterfaces => {
            Ok(Value::entries(select::forwardable_interfaces(host, false)))
        }
        Function::GetPrivateIp => Ok(first_ip(&select::forwardable_interfaces(host, true))),
        Function::GetPublicIp => Ok(first_ip(&select::forwardable_interfaces(host, false))),
        Function::GetPrivateIps => Ok(ips(&select::all_ips(host, true))),
        Function::GetPublicIps => Ok(ips(&select::all_ips(host, false))),
        Function::GetInterfaceIp => {
            Ok(first_ip(&select::of_interface(host, args.string(0)?, true)?))
        }
        Function::GetInterfaceIps => Ok(ips(&select::of_interface(host, args.string(0)?, false)?)),
        Function::Include | Function::Exclude => {
            let include = function == Function::Include;
            select::filter(include, args.string(0)?, args.string(1)?, args.entries(2)?)
                .map(Value::entries)
        }
        Function::Sort => select::sort(args.string(0)?, args.entries(1)?, host).map(Value::entries),
        Function::Attr => attr(args),
        Function::Join => join(args),
        Function::Limit => {
            let entries = args.entries(1)?;
            let limit = usize::try_from(args.integer(0)?)
                .map_err(|_| "the limit is negative".to_owned())?;
            Ok(Value::Entries(entries[..limit.min(entries.len())].into()))
        }
        Function::Offset => {
            let entries = args.entries(1)?;
            Ok(Value::Entries(select::offset(args.integer(0)?, entries)?.into()))
        }
        Function::Unique => select::unique(args.string(0)?, args.entries(1)?).map(Value::entries),
        Function::Math => {
            select::math(args.string(0)?, args.string(1)?, args.entries(2)?).map(Value::entries)
        }
        _ => of_text_template(function, args),
    }
}

/// Functions that come with Go's text/template.
fn of_text_template(function: Function, args: Arguments<'_>) -> Result<Value, String> {
    let text = || format::print(args.0);
    match function {
        Function::Not => Ok(Value::Bool(!args.get(0)?.is_true())),
        Function::Eq => equal(args).map(Value::Bool),
        Function::Ne => equal(args).map(|equal| Value::Bool(!equal)),
        Function::Lt => order(args).map(|order| Value::Bool(order.is_lt())),
        Function::Le => order(args).map(|order| Value::Bool(order.is_le())),
        Function::Gt => order(args).map(|order| Value::Bool(order.is_gt())),
        Function::Ge => order(args).map(|order| Value::Bool(order.is_ge())),
        Function::Len => len(args.get(0)?).map(|len| Value::Int(length(len))),
        Function::Index => index(args),
        Function::Slice => slice(args),
        Function::Print => Ok(Value::text(text())),
        Function::Println => Ok(Value::text(format::println(args.0))),
        Function::Printf => {
            format::printf(args.string(0)?, args.0.get(1..).unwrap_or_default()).map(Value::text)
        }
        Function::Html => Ok(Value::text(format::html(&text()))),
        Function::Js => Ok(Value::text(format::js(&text()))),
        Function::UrlQuery => Ok(Value::text(format::url_query(&text()))),
        Function::Call => Err(format!("{} is no function value", args.get(0)?.kind())),
        // `and` and `or` are evaluated before their arguments are; all others were dealt with.
        _ => Err("not callable here".to_owned()),
    }
}

/// The arguments of a call, which say what is wrong with them.
#[derive(Clone, Copy)]
struct Arguments<'a>(&'a [Value]);

impl<'a> Arguments<'a> {
    fn get(self, index: usize) -> Result<&'a Value, String> {
        self.0.get(index).ok_or_else(|| format!("argument {} is missing", index + 1))
    }

    fn wrong<T>(self, index: usize, wanted: &str) -> Result<T, String> {
        let got = self.get(index)?.kind();
        Err(format!("argument {} must be {wanted}, not {got}", index + 1))
    }

    fn string(self, index: usize) -> Result<&'a str, String> {
        match self.get(index)? {
            Value::Str(text) => Ok(text),
            _ => self.wrong(index, "a string"),
        }
    }

    fn entries(self, index: usize) -> Result<&'a [InterfaceAddress], String> {
        match self.get(index)? {
            Value::Entries(entries) => Ok(entries),
            _ => self.wrong(index, "a list of interface addresses"),
        }
    }

    /// An integer, also one in quotes: go-sockaddr documents `offset "-2"`.
    fn integer(self, index: usize) -> Result<i64, String> {
        let value = match self.get(index)? {
            Value::Int(value) => Some(*value),
            Value::Str(text) => text.parse().ok(),
            Value::Float(value) => value.to_string().parse().ok(),
            _ => None,
        };
        value.map_or_else(|| self.wrong(index, "an integer"), Ok)
    }
}

fn first_ip(entries: &[InterfaceAddress]) -> Value {
    let first = entries.first().and_then(|entry| entry.address.ip());
    Value::text(first.map(ip_text).unwrap_or_default())
}

fn ips(entries: &[InterfaceAddress]) -> Value {
    let ips: Vec<_> = entries.iter().filter_map(|entry| entry.address.ip()).map(ip_text).collect();
    Value::text(ips.join(" "))
}

fn attr(args: Arguments<'_>) -> Result<Value, String> {
    let name = args.string(0)?;
    match args.get(1)? {
        Value::Entry(entry) => attribute_of(entry, name),
        Value::Entries(entries) => {
            entries.first().map_or(Ok(Value::text("")), |entry| attribute_of(entry, name))
        }
        _ => args.wrong(1, "an interface address or a list of them"),
    }
}

fn join(args: Arguments<'_>) -> Result<Value, String> {
    let (name, separator) = (args.string(0)?, args.string(1)?);
    let mut text = String::new();
    for (index, entry) in args.entries(2)?.iter().enumerate() {
        text.push_str(if index == 0 { "" } else { separator });
        let _infallible = write!(text, "{}", attribute_of(entry, name)?);
    }
    Ok(Value::text(text))
}

/// Whether the first is equal to any of the others.
fn equal(args: Arguments<'_>) -> Result<bool, String> {
    let first = args.get(0)?;
    let mut any = false;
    for other in args.0.iter().skip(1) {
        let lists = |value| matches!(value, &Value::Entries(_) | &Value::Octets(_));
        let same_kind = std::mem::discriminant(first) == std::mem::discriminant(other);
        let nil = *first == Value::Nil || *other == Value::Nil;
        if lists(first) || lists(other) || !(same_kind || nil) {
            return Err(format!("cannot compare {} with {}", first.kind(), other.kind()));
        }
        any |= first == other;
    }
    Ok(any)
}

fn order(args: Arguments<'_>) -> Result<Ordering, String> {
    let (a, b) = (args.get(0)?, args.get(1)?);
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => Ok(a.total_cmp(b)),
        (Value::Str(a), Value::Str(b)) => Ok(a.cmp(b)),
        _ => Err(format!("cannot order {} and {}", a.kind(), b.kind())),
    }
}

fn len(value: &Value) -> Result<usize, String> {
    match value {
        Value::Str(text) => Ok(text.len()),
        Value::Entries(entries) => Ok(entries.len()),
        Value::Octets(octets) => Ok(octets.len()),
        other => Err(format!("{} has no length", other.kind())),
    }
}

/// Items by their number; a string has bytes.
fn index(args: Arguments<'_>) -> Result<Value, String> {
    let mut value = args.get(0)?.clone();
    for place in 1..args.0.len() {
        let count = len(&value).map_err(|_| format!("{} has no items", value.kind()))?;
        let at = usize::try_from(args.integer(place)?).ok().filter(|at| *at < count);
        let Some(at) = at else {
            return Err(format!("index {} is out of a range of {count}", args.get(place)?));
        };
        value = match &value {
            Value::Entries(entries) => Value::Entry(entries[at].clone()),
            Value::Octets(octets) => Value::Int(octets[at].into()),
            Value::Str(text) => Value::Int(text.as_bytes()[at].into()),
            other => return Err(format!("{} has no items", other.kind())),
        };
    }
    Ok(value)
}

/// From one place up to another, in items or bytes.
fn slice(args: Arguments<'_>) -> Result<Value, String> {
    let value = args.get(0)?;
    let count = len(value)?;
    let bound = |place: usize, default: usize| match args.0.get(place) {
        None => Ok(default),
        Some(_) => {
            let bound = args.integer(place)?;
            let fits = usize::try_from(bound).ok().filter(|bound| *bound <= count);
            fits.ok_or_else(|| format!("{bound} is out of a range of {count}"))
        }
    };
    let (start, end) = (bound(1, 0)?, bound(2, count)?);
    // The third number is a capacity in Go: it can only be too small.
    if start > end || bound(3, count)? < end {
        return Err(format!("{start} to {end} is no range"));
    }
    match value {
        Value::Entries(entries) => Ok(Value::Entries(entries[start..end].into())),
        Value::Octets(octets) => Ok(Value::Octets(octets[start..end].into())),
        Value::Str(_) if args.0.len() > 3 => Err("a string takes two bounds at most".to_owned()),
        Value::Str(text) => text
            .get(start..end)
            .map(Value::text)
            .ok_or_else(|| format!("{start} to {end} cuts a character in two")),
        other => Err(format!("cannot slice {}", other.kind())),
    }
}
