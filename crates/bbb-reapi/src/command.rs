use std::collections::BTreeSet;

use prost::Message as _;

use crate::{
    Invalid, OutputPath, parts,
    proto::reapi::{self, command::OutputDirectoryFormat as WireFormat},
};

/// What to run, in which environment, and which of its outputs to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments; never empty.
    pub arguments: Vec<String>,
    /// The whole environment: names and values.
    pub environment: Vec<(String, String)>,
    /// The outputs.
    pub outputs: Outputs,
    /// Where the command runs, relative to the input root.
    pub working_directory: OutputPath,
    /// What the worker must offer, where the action does not say it.
    pub platform: Properties,
    /// In which form output directories are wanted.
    pub output_directory_format: OutputDirectoryFormat,
    /// Whether outputs carry their `unix_mode`.
    pub wants_unix_mode: bool,
    /// Whether outputs carry their `mtime`.
    pub wants_mtime: bool,
}

/// Which outputs a command declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// `output_paths`: each may turn out to be a file, a directory or a symlink (since API 2.1).
    Paths(Vec<Output>),
    /// `output_files` and `output_directories`, as clients of API 2.0 send them.
    Legacy {
        /// Outputs that must be files or symlinks to files.
        files: Vec<Output>,
        /// Outputs that must be directories or symlinks to directories.
        directories: Vec<Output>,
    },
}

/// One declared output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Output {
    /// As the command says it, relative to its working directory: results repeat it to the letter.
    pub declared: Box<str>,
    /// Where that is, relative to the input root.
    pub path: OutputPath,
}

impl Outputs {
    /// Every declared output.
    pub fn iter(&self) -> impl Iterator<Item = &Output> {
        let (first, second) = match self {
            Self::Paths(paths) => (paths, &[][..]),
            Self::Legacy { files, directories } => (files, &directories[..]),
        };
        first.iter().chain(second)
    }
}

/// In which form output directories are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputDirectoryFormat {
    /// As one `Tree` message.
    Tree,
    /// As `Directory` messages of their own.
    Directory,
    /// As both.
    Both,
}

/// Platform properties: names and values, sorted. A name may stand several times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Properties(Vec<(String, String)>);

impl Properties {
    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, String)> for Properties {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

impl From<reapi::Platform> for Properties {
    fn from(platform: reapi::Platform) -> Self {
        platform.properties.into_iter().map(|property| (property.name, property.value)).collect()
    }
}

impl Command {
    /// Reads an encoded command.
    ///
    /// # Errors
    /// If it cannot be decoded or one of its fields breaks a rule.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        parts::check_stored(parts::COMMAND, bytes)?;
        let command = reapi::Command::decode(bytes)
            .map_err(|error| Invalid::new("command", format!("is no Command message: {error}")))?;
        Self::parse(command).map_err(|invalid| invalid.within("command"))
    }

    // The deprecated fields are what Bazel up to 6 sends.
    #[allow(deprecated)]
    fn parse(command: reapi::Command) -> Result<Self, Invalid> {
        let properties = &command.output_node_properties;
        let known = |name: &&String| !matches!(name.as_str(), "unix_mode" | "mtime");
        if let Some(unknown) = properties.iter().find(known) {
            let what = format!("{unknown:?} is not supported; unix_mode and mtime are");
            return Err(Invalid::new("output_node_properties", what));
        }
        let working_directory = OutputPath::new(&command.working_directory)
            .map_err(|invalid| Invalid::new("working_directory", invalid.what))?;
        Ok(Self {
            wants_unix_mode: properties.iter().any(|name| name == "unix_mode"),
            wants_mtime: properties.iter().any(|name| name == "mtime"),
            output_directory_format: directory_format(command.output_directory_format)?,
            outputs: outputs(
                &working_directory,
                &command.output_paths,
                &command.output_files,
                &command.output_directories,
            )?,
            arguments: arguments(command.arguments)?,
            environment: environment(command.environment_variables)?,
            working_directory,
            platform: command.platform.map(Properties::from).unwrap_or_default(),
        })
    }
}

fn directory_format(code: i32) -> Result<OutputDirectoryFormat, Invalid> {
    match WireFormat::try_from(code) {
        Ok(WireFormat::TreeOnly) => Ok(OutputDirectoryFormat::Tree),
        Ok(WireFormat::DirectoryOnly) => Ok(OutputDirectoryFormat::Directory),
        Ok(WireFormat::TreeAndDirectory) => Ok(OutputDirectoryFormat::Both),
        Err(_) => {
            Err(Invalid::new("output_directory_format", format!("{code} is not a known format")))
        }
    }
}

fn arguments(arguments: Vec<String>) -> Result<Vec<String>, Invalid> {
    match arguments.first() {
        None => Err(Invalid::new("arguments", "is empty; the first one names the program")),
        Some(program) if program.is_empty() => {
            Err(Invalid::new("arguments[0]", "is empty; it names the program"))
        }
        Some(_) => match arguments.iter().position(|argument| argument.contains('\0')) {
            Some(index) => Err(Invalid::new(format!("arguments[{index}]"), "holds NUL")),
            None => Ok(arguments),
        },
    }
}

fn environment(
    variables: Vec<reapi::command::EnvironmentVariable>,
) -> Result<Vec<(String, String)>, Invalid> {
    let mut names = BTreeSet::new();
    for variable in &variables {
        let invalid = |what: &str| {
            Err(Invalid::new("environment_variables", format!("{:?} {what}", variable.name)))
        };
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
            return invalid("is empty or holds '=' or NUL");
        }
        if variable.value.contains('\0') {
            return invalid("has a value that holds NUL");
        }
        if !names.insert(variable.name.as_str()) {
            return invalid("stands twice");
        }
    }
    Ok(variables.into_iter().map(|variable| (variable.name, variable.value)).collect())
}

fn outputs(
    base: &OutputPath,
    paths: &[String],
    files: &[String],
    directories: &[String],
) -> Result<Outputs, Invalid> {
    if !paths.is_empty() {
        return Ok(Outputs::Paths(distinct("output_paths", base, paths)?));
    }
    let files = distinct("output_files", base, files)?;
    let directories = distinct("output_directories", base, directories)?;
    let known: BTreeSet<_> = files.iter().map(|file| &file.path).collect();
    for Output { declared, path } in &files {
        if path == base {
            return Err(Invalid::new("output_files", "holds the working directory itself"));
        }
        let ancestors = std::iter::successors(path.parent(), OutputPath::parent);
        if let Some(above) = ancestors.into_iter().find(|above| known.contains(above)) {
            let what = format!("{declared:?} is below {above}, which is an output file too");
            return Err(Invalid::new("output_files", what));
        }
    }
    if let Some(both) = directories.iter().find(|directory| known.contains(&directory.path)) {
        let what = format!("{:?} is an output file too", both.declared);
        return Err(Invalid::new("output_directories", what));
    }
    Ok(Outputs::Legacy { files, directories })
}

/// The outputs of one field, sorted, each once.
fn distinct(field: &str, base: &OutputPath, paths: &[String]) -> Result<Vec<Output>, Invalid> {
    let output = |declared: &String| {
        let path = OutputPath::resolve(base, declared)
            .map_err(|invalid| Invalid::new(field, invalid.what))?;
        Ok(Output { declared: declared.as_str().into(), path })
    };
    let outputs = paths.iter().map(output).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(outputs.into_iter().collect())
}

#[cfg(test)]
#[allow(deprecated)]
mod tests {
    use super::*;

    fn field(command: reapi::Command) -> String {
        Command::decode(&command.encode_to_vec()).unwrap_err().field
    }

    fn valid() -> reapi::Command {
        reapi::Command { arguments: vec!["true".into()], ..Default::default() }
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(field(reapi::Command::default()), "command.arguments");
        let arguments = vec!["a".into(), "b\0".into()];
        assert_eq!(field(reapi::Command { arguments, ..valid() }), "command.arguments[1]");
        let working_directory = "../x".into();
        assert_eq!(
            field(reapi::Command { working_directory, ..valid() }),
            "command.working_directory"
        );
        for path in ["/etc/passwd", "../x", "a//b", "a/"] {
            let output_paths = vec![path.to_owned()];
            assert_eq!(field(reapi::Command { output_paths, ..valid() }), "command.output_paths");
        }
        let output_node_properties = vec!["owner".into()];
        assert_eq!(
            field(reapi::Command { output_node_properties, ..valid() }),
            "command.output_node_properties"
        );
        assert_eq!(
            field(reapi::Command { output_directory_format: 9, ..valid() }),
            "command.output_directory_format"
        );
        let variable = |name: &str| reapi::command::EnvironmentVariable {
            name: name.into(),
            value: "".into(),
        };
        for environment_variables in [vec![variable("a=b")], vec![variable("x"), variable("x")]] {
            assert_eq!(
                field(reapi::Command { environment_variables, ..valid() }),
                "command.environment_variables"
            );
        }
    }

    #[test]
    fn legacy_outputs_must_not_overlap() {
        let output_files = vec!["a/b".to_owned(), "a".to_owned()];
        assert_eq!(field(reapi::Command { output_files, ..valid() }), "command.output_files");
        let both = reapi::Command {
            output_files: vec!["a".into()],
            output_directories: vec!["a".into()],
            ..valid()
        };
        assert_eq!(field(both), "command.output_directories");
    }

    #[test]
    fn output_paths_win_over_legacy_outputs() {
        let command = reapi::Command {
            output_paths: vec!["b".into(), "a".into(), "a".into()],
            output_files: vec!["c".into()],
            ..valid()
        };
        let command = Command::decode(&command.encode_to_vec()).unwrap();
        let paths: Vec<_> = command.outputs.iter().map(|output| output.path.as_str()).collect();
        assert_eq!(paths, ["a", "b"]);
    }

    #[test]
    fn outputs_may_stand_beside_the_working_directory() {
        let output_paths = vec![".".to_owned(), "../../install".to_owned()];
        let command = reapi::Command { working_directory: "a/b".into(), output_paths, ..valid() };
        let command = Command::decode(&command.encode_to_vec()).unwrap();
        let outputs: Vec<_> = command
            .outputs
            .iter()
            .map(|output| (&*output.declared, output.path.as_str()))
            .collect();
        assert_eq!(outputs, [(".", "a/b"), ("../../install", "install")]);
    }
}
