//! Text from values as Go's fmt package makes it, and escapes for other languages.
//!
//! Promises: bounded padding; a verb that does not fit its value is an error, where Go prints a
//! remark into the text.

use std::fmt::Write as _;

use crate::value::{Value, exponent_text, float_text};

/// Widest padding and highest precision of a verb.
const MAX_WIDTH: usize = 1_000;

/// A space between operands of which neither is a string.
pub(crate) fn print(values: &[Value]) -> String {
    let mut text = String::new();
    let mut after_string = true;
    for value in values {
        let is_string = matches!(value, Value::Str(_));
        text.push_str(if after_string || is_string { "" } else { " " });
        let _infallible = write!(text, "{value}");
        after_string = is_string;
    }
    text
}

/// A space between all operands, and a newline.
pub(crate) fn println(values: &[Value]) -> String {
    let texts: Vec<_> = values.iter().map(Value::to_string).collect();
    texts.join(" ") + "\n"
}

/// For HTML text and attributes.
pub(crate) fn html(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
        out
    })
}

/// For a JavaScript string.
pub(crate) fn js(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            '<' | '>' | '&' | '=' | '\0'..'\u{20}' => {
                let _infallible = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
        out
    })
}

/// For the query of a URL.
pub(crate) fn url_query(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            byte => {
                let _infallible = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

/// The most bytes by which `printf` with these arguments grows for padding.
pub(crate) fn padding(arguments: &[Value]) -> u64 {
    match arguments.first() {
        Some(Value::Str(format)) => format.matches('%').count() as u64 * MAX_WIDTH as u64 * 2,
        _ => 0,
    }
}

/// A verb with what stands between it and its percent sign.
#[derive(Default)]
struct Verb {
    minus: bool,
    plus: bool,
    sharp: bool,
    zero: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
    verb: char,
}

/// `%v %s %q %d %b %o %x %X %c %U %e %E %f %F %g %G %t %%`, with flags, width and precision.
pub(crate) fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = format;
    let mut values = values.iter();
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let (verb, behind) = parse_verb(after, &mut values)?;
        rest = behind;
        if verb.verb == '%' {
            text.push('%');
        } else {
            let missing = || format!("no value is left for %{}", verb.verb);
            let value = values.next().ok_or_else(missing)?;
            text.push_str(&padded(&verb, &formatted(&verb, value)?, value));
        }
    }
    text.push_str(rest);
    match values.len() {
        0 => Ok(text),
        left => Err(format!("{left} values more than verbs")),
    }
}

fn parse_verb<'f>(
    text: &'f str,
    values: &mut std::slice::Iter<'_, Value>,
) -> Result<(Verb, &'f str), String> {
    let flags = text.len() - text.trim_start_matches(['-', '+', '#', '0', ' ']).len();
    let (flags, rest) = text.split_at(flags);
    let has = |flag| flags.contains(flag);
    let (width, rest) = parse_width(rest, values)?;
    let (precision, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let (precision, rest) = parse_width(rest, values)?;
            (Some(precision), rest)
        }
        None => (None, rest),
    };
    let mut chars = rest.chars();
    let verb = chars.next().ok_or("a verb is missing after %")?;
    let (minus, zero) = (has('-'), has('0') && !has('-'));
    let (plus, sharp, space) = (has('+'), has('#'), has(' '));
    Ok((Verb { minus, plus, sharp, zero, space, width, precision, verb }, chars.as_str()))
}

fn parse_width<'f>(
    text: &'f str,
    values: &mut std::slice::Iter<'_, Value>,
) -> Result<(usize, &'f str), String> {
    let (width, rest) = if let Some(rest) = text.strip_prefix('*') {
        match values.next() {
            Some(Value::Int(width)) => (usize::try_from(*width).ok(), rest),
            _ => (None, rest),
        }
    } else {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (digits, rest) = text.split_at(digits);
        (if digits.is_empty() { Some(0) } else { digits.parse().ok() }, rest)
    };
    let width = width.filter(|width| *width <= MAX_WIDTH);
    width.map(|width| (width, rest)).ok_or_else(|| format!("widths go from 0 to {MAX_WIDTH}"))
}

fn formatted(verb: &Verb, value: &Value) -> Result<String, String> {
    match (verb.verb, value) {
        ('v', Value::Str(text)) if verb.sharp => Ok(format!("{text:?}")),
        ('v' | 'd', Value::Int(number)) => Ok(signed(verb, *number >= 0, number.to_string())),
        ('v', Value::Float(number)) => Ok(signed(verb, *number >= 0.0, float_text(*number))),
        ('v', value) => Ok(value.to_string()),
        ('t', Value::Bool(value)) => Ok(value.to_string()),
        ('d', Value::Octets(_)) => Ok(value.to_string()),
        ('b' | 'o' | 'x' | 'X', Value::Int(number)) => {
            let size = number.unsigned_abs();
            let digits = match verb.verb {
                'b' => format!("{size:b}"),
                'o' => format!("{size:o}"),
                'x' => format!("{size:x}"),
                _ => format!("{size:X}"),
            };
            let prefix = match verb.verb {
                _ if !verb.sharp => "",
                'b' => "0b",
                'o' => "0",
                'x' => "0x",
                _ => "0X",
            };
            let minus = if *number < 0 { "-" } else { "" };
            Ok(signed(verb, *number >= 0, format!("{minus}{prefix}{digits}")))
        }
        ('c' | 'q' | 'U', Value::Int(number)) => {
            let c = u32::try_from(*number).ok().and_then(char::from_u32);
            let c = c.ok_or_else(|| format!("{number} is no character"))?;
            Ok(match verb.verb {
                'c' => c.to_string(),
                'q' => format!("{c:?}"),
                _ => format!("U+{:04X}", u32::from(c)),
            })
        }
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G', Value::Float(number)) => {
            Ok(signed(verb, *number >= 0.0, float(verb, *number)))
        }
        ('s' | 'q' | 'x' | 'X', Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Nil)
        | ('s', Value::Octets(_)) => Err(mismatch(verb, value)),
        ('s' | 'q', value) => {
            let text = value.to_string();
            let cut: String = text.chars().take(verb.precision.unwrap_or(usize::MAX)).collect();
            Ok(if verb.verb == 's' { cut } else { format!("{cut:?}") })
        }
        ('x', value) => Ok(hex(value).to_lowercase()),
        ('X', value) => Ok(hex(value)),
        ('b' | 'o' | 'c' | 'U' | 'd' | 't' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G', value) => {
            Err(mismatch(verb, value))
        }
        (other, _) => Err(format!("%{other} is no verb")),
    }
}

fn mismatch(verb: &Verb, value: &Value) -> String {
    format!("%{} does not take {}", verb.verb, value.kind())
}

fn hex(value: &Value) -> String {
    let bytes = match value {
        Value::Octets(octets) => octets.to_vec(),
        value => value.to_string().into_bytes(),
    };
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn signed(verb: &Verb, positive: bool, text: String) -> String {
    match (positive, verb.plus, verb.space) {
        (true, true, _) => format!("+{text}"),
        (true, false, true) => format!(" {text}"),
        _ => text,
    }
}

fn float(verb: &Verb, number: f64) -> String {
    let precision = verb.precision;
    let text = match verb.verb {
        'f' | 'F' => format!("{number:.0$}", precision.unwrap_or(6)),
        'e' | 'E' => exponent_text(&format!("{number:.0$e}", precision.unwrap_or(6))),
        // %g with a precision counts all digits; the exponent says which form is used.
        _ => match precision.map(|digits| digits.max(1)) {
            None => float_text(number),
            Some(digits) => {
                let rounded = format!("{number:.0$e}", digits - 1);
                float_text(rounded.parse().unwrap_or(number))
            }
        },
    };
    if verb.verb.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

fn padded(verb: &Verb, text: &str, value: &Value) -> String {
    let missing = verb.width.saturating_sub(text.chars().count());
    if missing == 0 {
        return text.to_owned();
    }
    if verb.minus {
        return text.to_owned() + &" ".repeat(missing);
    }
    let number = matches!(value, Value::Int(_) | Value::Float(_));
    if verb.zero && number {
        let digits = text.trim_start_matches(['+', '-', ' ']);
        let sign = &text[..text.len() - digits.len()];
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    " ".repeat(missing) + text
}
