//! From the words of the command line to [`Flags`].
//!
//! Go's conventions are brought to those of clap first: one dash becomes two and a value joins its
//! flag (`-port 80` becomes `--port=80`), whatever the value starts with. What is wrong with the
//! words is said here, in our wording; clap only fills the struct and writes `--help`.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser};

use super::raw::{Flags, Tool};
use super::refusal::Refusal;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run a node.
    Node(Box<Flags>),
    /// Do something for the person at the terminal.
    Tool(Tool),
    /// Print this text: help or version.
    Print(String),
}

/// Parses the command line, the program's name first.
///
/// # Errors
/// When it is not one of ours.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Invocation, Refusal> {
    let words = words
        .into_iter()
        .map(|word| {
            let text = |word: OsString| word.to_string_lossy().into_owned();
            word.into_string()
                .map_err(|word| Refusal::Other(format!("{:?} is not UTF-8", text(word))))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let words = joined(words)?;
    match Flags::try_parse_from(words) {
        Ok(Flags { tool: Some(tool), .. }) => Ok(Invocation::Tool(tool)),
        Ok(flags) => Ok(Invocation::Node(Box::new(flags))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Invocation::Print(error.render().to_string()))
            }
            _ => Err(Refusal::Other(first_line(&error.render().to_string()))),
        },
    }
}

/// What clap says above its usage lines, in one.
fn first_line(text: &str) -> String {
    let said = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = said.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned() + "; see --help"
}

/// What is known of a flag.
struct Known {
    name: String,
    boolean: bool,
    repeatable: bool,
    example: String,
}

fn known_flags() -> Vec<Known> {
    let command = Flags::command();
    let flags = command.get_arguments().filter_map(|arg| {
        let value_names = arg.get_value_names().unwrap_or_default();
        Some(Known {
            name: arg.get_long()?.to_owned(),
            boolean: arg.get_num_args().is_some_and(|range| range.min_values() == 0),
            repeatable: matches!(arg.get_action(), ArgAction::Append),
            example: value_names.first().map(ToString::to_string).unwrap_or_default(),
        })
    });
    flags.collect()
}

/// Every flag as `--name` or `--name=value`; all from the subcommand on as it is.
fn joined(words: Vec<String>) -> Result<Vec<String>, Refusal> {
    let known = known_flags();
    let mut seen = BTreeSet::new();
    let mut words = words.into_iter().peekable();
    let mut result: Vec<_> = words.next().into_iter().collect();
    while let Some(word) = words.next() {
        if matches!(word.as_str(), "-h" | "-help" | "--help" | "-V" | "-version" | "--version") {
            // Go's single dash is for clap a list of letters.
            result.push(if word.len() > 2 {
                format!("--{}", word.trim_start_matches('-'))
            } else {
                word
            });
            continue;
        }
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            check_subcommand(&word)?;
            if let Some(flag) = seen.iter().next() {
                let what = format!("--{flag} is for running a node, not for {word}: leave it out");
                return Err(Refusal::Contradiction(what));
            }
            result.push(word);
            result.extend(words);
            break;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let Some(found) = known.iter().find(|flag| flag.name == name) else {
            let flag = word.split('=').next().unwrap_or_default().to_owned();
            return Err(Refusal::UnknownFlag { flag, hint: hint(name, &known) });
        };
        if !seen.insert(found.name.clone()) && !found.repeatable {
            return Err(Refusal::Repeated { flag: found.name.clone() });
        }
        let value = match value {
            None if found.boolean => words.next_if(|next| super::units::parse_bool(next).is_some()),
            None => Some(next_value(found, &known, &mut words)?),
            value => value,
        };
        result.push(match value {
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}"),
        });
    }
    Ok(result)
}

/// The word behind a flag, unless that is a flag itself.
fn next_value(
    flag: &Known,
    known: &[Known],
    words: &mut impl Iterator<Item = String>,
) -> Result<String, Refusal> {
    let is_flag = |word: &String| {
        let name = word.strip_prefix("--").and_then(|word| word.split('=').next());
        name.is_some_and(|name| known.iter().any(|flag| flag.name == name))
    };
    words.next().filter(|word| !is_flag(word)).ok_or_else(|| Refusal::MissingValue {
        flag: flag.name.clone(),
        example: flag.example.clone(),
    })
}

fn check_subcommand(word: &str) -> Result<(), Refusal> {
    let command = Flags::command();
    let names: Vec<_> = command.get_subcommands().map(|tool| tool.get_name().to_owned()).collect();
    if names.iter().any(|name| name == word) {
        return Ok(());
    }
    Err(Refusal::UnknownWord { word: word.to_owned(), subcommands: names.join(", ") })
}

/// `, did you mean --x?` for the nearest known name, if one is near.
fn hint(name: &str, known: &[Known]) -> String {
    const FAR: usize = 3;
    let name = name.trim_start_matches('-').to_lowercase().replace('-', "_");
    let names = known.iter().map(|flag| (distance(&name, &flag.name), &flag.name));
    match names.min() {
        Some((distance, near)) if distance < FAR.min(name.len()) => {
            format!(", did you mean --{near}?")
        }
        _ => String::new(),
    }
}

/// Levenshtein's: letters to insert, take away or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
