//! From text to tokens: text outside of actions, and the words inside of them.
//!
//! Promises: never panics; every token carries its byte offset. Follows Go's text/template: `{{-`
//! and `-}}` (with a space on their inner side) trim white space, `{{/* */}}` is a comment, actions
//! may span lines. Refuses to know which words are functions.

use crate::error::Fault;

/// A token and the byte offset at which it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) at: usize,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Text outside of actions, trimmed; never empty.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// White space between words: it separates `.A .B` from `.A.B`.
    Space,
    Word(Word),
    End,
}

/// What stands between `{{` and `}}`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Word {
    /// `.` alone.
    Dot,
    /// `.Name`
    Field(String),
    /// `$name` or `$`, with its dollar sign.
    Variable(String),
    /// A keyword, function or constant name.
    Name(String),
    Str(String),
    Int(i64),
    Float(f64),
    Pipe,
    Comma,
    LeftParen,
    RightParen,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// Splits a whole template; the last token is [`Kind::End`].
pub(crate) fn lex(text: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new() };
    let mut trim = false;
    loop {
        let rest = &text[lexer.at..];
        let open = rest.find("{{");
        let mut outside = &rest[..open.unwrap_or(rest.len())];
        let start = lexer.at;
        if trim {
            outside = outside.trim_start_matches(SPACE);
        }
        let Some(open) = open else {
            lexer.push_text(start, outside);
            break;
        };
        let open_at = start + open;
        lexer.at = open_at + 2;
        let mut inside = lexer.rest().chars();
        if inside.next() == Some('-') && inside.next().is_some_and(|c| SPACE.contains(&c)) {
            outside = outside.trim_end_matches(SPACE);
            lexer.at += 1;
        }
        lexer.push_text(start, outside);
        trim = match lexer.comment(open_at)? {
            Some(trim) => trim,
            None => lexer.action(open_at)?,
        };
    }
    lexer.tokens.push(Token { at: text.len(), kind: Kind::End });
    Ok(lexer.tokens)
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn push_text(&mut self, at: usize, text: &str) {
        if !text.is_empty() {
            self.tokens.push(Token { at, kind: Kind::Text(text.to_owned()) });
        }
    }

    /// Steps over a comment, if there is one; gives whether the text behind it is to be trimmed.
    fn comment(&mut self, open_at: usize) -> Result<Option<bool>, Fault> {
        // A comment may follow a trim marker, and then one space of any kind.
        let after_marker = self.rest().strip_prefix(SPACE).filter(|_| self.at > open_at + 2);
        let Some(body) = after_marker.unwrap_or(self.rest()).strip_prefix("/*") else {
            return Ok(None);
        };
        let Some(end) = body.find("*/") else {
            return Err(Fault::new(open_at, "comment without end: */ is missing"));
        };
        let behind = &body[end + 2..];
        let trimmed = behind.strip_prefix(SPACE).and_then(|rest| rest.strip_prefix("-}}"));
        let (rest, trim) = match (behind.strip_prefix("}}"), trimmed) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => {
                return Err(Fault::new(open_at, "a comment must be alone in its action"));
            }
        };
        self.at = self.text.len() - rest.len();
        Ok(Some(trim))
    }

    /// Reads the words up to `}}`; gives whether the text behind it is to be trimmed.
    fn action(&mut self, open_at: usize) -> Result<bool, Fault> {
        self.tokens.push(Token { at: open_at, kind: Kind::Open });
        loop {
            let at = self.at;
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(SPACE);
            let spaces = rest.len() - trimmed.len();
            let trim = spaces > 0 && trimmed.starts_with("-}}");
            if trim || rest.starts_with("}}") {
                self.at += if trim { spaces + 3 } else { 2 };
                self.tokens.push(Token { at, kind: Kind::Close });
                return Ok(trim);
            }
            if spaces > 0 {
                self.at += spaces;
                self.tokens.push(Token { at, kind: Kind::Space });
            } else if rest.is_empty() {
                return Err(Fault::new(open_at, "action without end: }} is missing"));
            } else {
                let (word, length) = self.word()?;
                self.at += length;
                self.tokens.push(Token { at, kind: Kind::Word(word) });
            }
        }
    }

    /// The word here and its length in bytes.
    fn word(&self) -> Result<(Word, usize), Fault> {
        let rest = self.rest();
        let second = rest[rest.chars().next().map_or(0, char::len_utf8)..].chars().next();
        let digit_next = second.is_some_and(|c| c.is_ascii_digit());
        match rest.chars().next() {
            Some('|') => Ok((Word::Pipe, 1)),
            Some(',') => Ok((Word::Comma, 1)),
            Some('(') => Ok((Word::LeftParen, 1)),
            Some(')') => Ok((Word::RightParen, 1)),
            Some('=') => Ok((Word::Assign, 1)),
            Some(':') if second == Some('=') => Ok((Word::Declare, 2)),
            Some('"') => self.quoted(),
            Some('`') => match rest[1..].find('`') {
                Some(end) => Ok((Word::Str(rest[1..=end].replace('\r', "")), end + 2)),
                None => Err(Fault::new(self.at, "raw string without end: ` is missing")),
            },
            Some('\'') => self.character(),
            Some('.') if !digit_next => {
                let name = self.name_at(1);
                let word = if name.is_empty() { Word::Dot } else { Word::Field(name.to_owned()) };
                self.terminated(word, 1 + name.len())
            }
            Some('$') => {
                let name = self.name_at(1);
                self.terminated(Word::Variable(format!("${name}")), 1 + name.len())
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some('+' | '-') if digit_next || second == Some('.') => self.number(),
            Some(c) if c.is_alphabetic() || c == '_' => {
                let name = self.name_at(0);
                self.terminated(Word::Name(name.to_owned()), name.len())
            }
            Some(c) => Err(Fault::new(self.at, format!("unexpected character {c:?}"))),
            None => Err(Fault::new(self.at, "unexpected end")),
        }
    }

    fn name_at(&self, skip: usize) -> &str {
        let rest = &self.rest()[skip..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    }

    /// Names must not run into what comes next.
    fn terminated(&self, word: Word, length: usize) -> Result<(Word, usize), Fault> {
        let next = self.rest()[length..].chars().next();
        let ends = next.is_none_or(|c| SPACE.contains(&c) || ".,|:=()}".contains(c));
        if ends {
            return Ok((word, length));
        }
        let at = self.at + length;
        Err(Fault::new(at, format!("unexpected {:?} after a name", next.unwrap_or_default())))
    }

    fn number(&self) -> Result<(Word, usize), Fault> {
        let rest = self.rest();
        let mut previous = ' ';
        let end = rest.find(|c: char| {
            let exponent = matches!(previous, 'e' | 'E' | 'p' | 'P') && !rest.starts_with("0x");
            let sign = "+-".contains(c) && (previous == ' ' || exponent);
            previous = c;
            !(sign || c.is_alphanumeric() || c == '.' || c == '_')
        });
        let text = &rest[..end.unwrap_or(rest.len())];
        match parse_number(text) {
            Some(word) => Ok((word, text.len())),
            None => Err(Fault::new(self.at, format!("{text:?} is no number"))),
        }
    }

    fn quoted(&self) -> Result<(Word, usize), Fault> {
        let mut value = Vec::new();
        let mut at = 1;
        loop {
            let rest = &self.rest()[at..];
            match rest.chars().next() {
                None | Some('\n') => {
                    return Err(Fault::new(self.at, "string without end: \" is missing"));
                }
                Some('"') => break,
                Some('\\') => at += self.escape(at, '"', &mut value)?,
                Some(c) => {
                    value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    at += c.len_utf8();
                }
            }
        }
        match String::from_utf8(value) {
            Ok(value) => Ok((Word::Str(value), at + 1)),
            Err(_) => Err(Fault::new(self.at, "string is not UTF-8")),
        }
    }

    /// A character constant is a number.
    fn character(&self) -> Result<(Word, usize), Fault> {
        let broken = || Fault::new(self.at, "malformed character constant");
        let mut value = Vec::new();
        let length = match self.rest()[1..].chars().next() {
            None | Some('\'' | '\n') => return Err(broken()),
            Some('\\') => self.escape(1, '\'', &mut value)?,
            Some(c) => {
                value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                c.len_utf8()
            }
        };
        if !self.rest()[1 + length..].starts_with('\'') {
            return Err(broken());
        }
        let code = match String::from_utf8(value) {
            Ok(text) => text.chars().next().map_or(0, u32::from),
            // One byte from \x or an octal escape.
            Err(error) => u32::from(error.as_bytes().first().copied().unwrap_or_default()),
        };
        Ok((Word::Int(code.into()), length + 2))
    }

    /// Reads the escape at `at` bytes from here into `value`; gives its length.
    fn escape(&self, at: usize, quote: char, value: &mut Vec<u8>) -> Result<usize, Fault> {
        let rest = &self.rest()[at + 1..];
        let unknown = || Fault::new(self.at + at, "unknown escape sequence");
        let (digits, radix) = match rest.chars().next() {
            Some(c) if c == quote || c == '\\' => {
                value.push(if c == '\\' {
                    b'\\'
                } else if quote == '"' {
                    b'"'
                } else {
                    b'\''
                });
                return Ok(2);
            }
            Some('x') => (2, 16),
            Some('u') => (4, 16),
            Some('U') => (8, 16),
            Some('0'..='7') => (3, 8),
            Some(c) => {
                let letters = b"abfnrtv";
                let codes = [7, 8, 12, b'\n', b'\r', b'\t', 11];
                let found = letters.iter().position(|letter| char::from(*letter) == c);
                value.push(codes[found.ok_or_else(unknown)?]);
                return Ok(2);
            }
            None => return Err(unknown()),
        };
        let start = usize::from(radix == 16);
        let text = rest.get(start..start + digits).ok_or_else(unknown)?;
        let plain = text.chars().all(|c| c.is_digit(radix));
        let code = u32::from_str_radix(text, radix).ok().filter(|_| plain).ok_or_else(unknown)?;
        if digits < 4 {
            value.push(u8::try_from(code).map_err(|_| unknown())?);
        } else {
            let c = char::from_u32(code).ok_or_else(unknown)?;
            value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(1 + start + digits)
    }
}

/// Go's number constants: `_` between digits, `0x`, `0o`, `0b` and a bare `0` as prefixes, decimal
/// floating point. No complex numbers, no hexadecimal floating point.
fn parse_number(text: &str) -> Option<Word> {
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (&text[..1], digits),
        None => ("", text),
    };
    if digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    let digits = digits.replace('_', "").to_ascii_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)];
    let found = prefixed
        .iter()
        .find_map(|(prefix, radix)| digits.strip_prefix(prefix).map(|digits| (digits, *radix)));
    let octal =
        digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    let (body, radix) = found.unwrap_or((&digits, if octal { 8 } else { 10 }));
    if body.starts_with(['+', '-']) {
        return None;
    }
    if let Ok(int) = i64::from_str_radix(&format!("{sign}{body}"), radix) {
        return Some(Word::Int(int));
    }
    let decimal = digits.bytes().all(|byte| byte.is_ascii_digit() || b".e+-".contains(&byte));
    let float = format!("{sign}{digits}").parse::<f64>().ok().filter(|float| float.is_finite())?;
    (decimal && digits.contains(['.', 'e'])).then_some(Word::Float(float))
}
