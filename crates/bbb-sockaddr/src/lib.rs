//! The go-sockaddr template language: addresses of this host by what they are.
//!
//! `{{ GetPrivateIP }}` is a template, and so is `10.0.0.1`. The reference is the documentation of
//! hashicorp's go-sockaddr, and for what stands around its functions that of Go's text/template.
//!
//! Promises: parsing and evaluating never panic, end, and stay small whatever the template is;
//! evaluation is pure in an [`Interfaces`] snapshot; every refusal says where and what is wrong.
//! Knows nothing of flags, sockets and nodes.
//!
//! Where the original's code strays from its documentation this follows the documentation:
//! `Attr` is there beside `attr`; numbers may be quoted (`offset "-2"`); the flag `down` selects
//! interfaces that are down; of several values `exclude` removes what matches any and `include`
//! gives no address twice; without a default route `GetDefaultInterfaces` is empty instead of an
//! error. A `printf` verb that does not fit its value is an error. Complex numbers and function
//! values do not exist here. Regular expressions work on bytes; `\d`, `\w` and `\s` are ASCII.
//!
//! ```
//! use bbb_sockaddr::{Interfaces, Template};
//!
//! let template = Template::parse(r#"{{ GetAllInterfaces | include "name" "^lo$" | len }}"#)?;
//! assert_eq!(template.evaluate(&Interfaces::default())?, "0");
//! # Ok::<(), bbb_sockaddr::Error>(())
//! ```

mod address;
mod call;
mod error;
mod eval;
mod format;
mod function;
mod interfaces;
mod lex;
mod parse;
mod rfc;
mod scope;
mod select;
#[cfg(test)]
mod tests;
mod tree;
mod value;

pub use address::{AddressError, MathError, SockAddr};
pub use error::{Error, EvalError, ParseError, Position};
pub use interfaces::{Flags, HostError, Interface, InterfaceAddress, Interfaces};

/// The longest template that is parsed, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 16 << 10;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    text: String,
    parsed: parse::Parsed,
}

impl Template {
    /// Parses a template; text without `{{` is one too.
    ///
    /// # Errors
    /// When it is too long, or not in the language.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(ParseError::TooLong { bytes: text.len() });
        }
        let parsed = lex::lex(text).and_then(|tokens| parse::parse(&tokens));
        match parsed {
            Ok(parsed) => Ok(Self { text: text.to_owned(), parsed }),
            Err(fault) => Err(fault.into_parse_error(text)),
        }
    }

    /// The text that the template gives for these interfaces; it may be empty.
    ///
    /// # Errors
    /// When a function is given what it does not take, or the template takes too long.
    pub fn evaluate(&self, interfaces: &Interfaces) -> Result<String, EvalError> {
        eval::evaluate(&self.parsed, interfaces).map_err(|fault| fault.into_eval_error(&self.text))
    }

    /// The text that was parsed.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Parses and evaluates at once: whole what is to be fuzzed.
///
/// # Errors
/// As [`Template::parse`] and [`Template::evaluate`].
pub fn evaluate(text: &str, interfaces: &Interfaces) -> Result<String, Error> {
    Ok(Template::parse(text)?.evaluate(interfaces)?)
}
