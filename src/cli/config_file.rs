//! `--config FILE`: a TOML file with a key for each flag of a run.
//!
//! The keys are not listed here: they are the long names of clap's arguments. The file becomes
//! arguments, which are parsed together with those of the command line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// The most bytes of a file: more than any run has flags for.
const MOST: u64 = 1 << 20;

/// The flag that names the file, which has no key.
const OWN: &str = "config";

/// Names below this likeness (Jaro's, 0 to 1) are not offered for an unknown key. clap has the same
/// limit for unknown flags.
const LIKE: f64 = 0.7;

/// The reason why a file with flags cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file's text is wrong.
    #[error("{}: line {line}: {mistake}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        mistake: Mistake,
    },
    /// clap refuses the value of a key.
    #[error("{}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What clap says.
        message: String,
    },
    /// Neither the file nor the command line names a kernel.
    #[error("{} has no `kernel`, and the command line has no --kernel", .0.display())]
    NoKernel(PathBuf),
}

/// A mistake in the text of a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// No TOML.
    #[error("this is not TOML: {0}")]
    Syntax(String),
    /// No flag has this name.
    #[error("`{key}` is not a key")]
    Unknown {
        /// What the user wrote.
        key: String,
        /// The key with the most similar name.
        nearest: Option<String>,
        /// All keys.
        keys: Vec<String>,
    },
    /// A value that the flag of the key cannot have.
    #[error("the value of `{key}` is {given}, not {wanted}")]
    Kind {
        /// The key.
        key: String,
        /// The kind of the value.
        given: String,
        /// The kinds that the key takes.
        wanted: &'static str,
    },
    /// A text that no command line can have.
    #[error("the value of `{key}` has a NUL character")]
    Nul {
        /// The key.
        key: String,
    },
}

impl ConfigFileError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Read { path, .. } => {
                format!(
                    "name a text file that you may read: --config {}",
                    path.display()
                )
            }
            Self::Text { mistake, .. } => mistake.hint(),
            Self::Value { .. } => {
                "a key takes what the flag of the same name takes; `mini-vmm --help` has each"
                    .into()
            }
            Self::NoKernel(_) => {
                "add `kernel = \"PATH\"` to the file, or give --kernel PATH".into()
            }
        }
    }
}

impl Mistake {
    fn hint(&self) -> String {
        match self {
            Self::Syntax(_) => "a line is `key = value`; a text is in quotation marks".into(),
            Self::Unknown {
                nearest: Some(nearest),
                ..
            } => format!("did you mean `{nearest}`?"),
            Self::Unknown { keys, .. } => format!("the keys are {}", keys.join(", ")),
            Self::Kind {
                key,
                wanted: SWITCH,
                ..
            } => format!("write {key} = true"),
            Self::Kind {
                key, wanted: COUNT, ..
            } => format!("write {key} = 1"),
            Self::Kind {
                key, wanted: LIST, ..
            } => {
                format!("write {key} = [\"VALUE\"] for --{key} VALUE")
            }
            Self::Kind { key, .. } => {
                format!("write {key} = \"VALUE\" for --{key} VALUE, with its options in the text")
            }
            Self::Nul { key } => format!("leave \\u0000 out of `{key}`"),
        }
    }
}

const SWITCH: &str = "true or false";
const COUNT: &str = "a number from 0 to 255";
const ONE: &str = "a text or a number";
const LIST: &str = "a text or an array of texts";
const OPTIONAL: &str = "true, false or a text";

/// Reads the file and turns it into arguments, but for the flags in `given`, by clap's ids: the
/// command line has them.
///
/// # Errors
/// The file cannot be read, or its text is wrong.
pub fn arguments(
    path: &Path,
    run: &Command,
    given: &[&str],
) -> Result<Vec<OsString>, ConfigFileError> {
    let text = read(path).map_err(|source| ConfigFileError::Read {
        path: path.into(),
        source,
    })?;
    to_arguments(&text, run, given).map_err(|(at, mistake)| ConfigFileError::Text {
        path: path.into(),
        line: 1 + text
            .as_bytes()
            .iter()
            .take(at)
            .filter(|b| **b == b'\n')
            .count(),
        mistake,
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(io::Error::other(format!(
            "the file is larger than {} KiB",
            MOST >> 10
        )));
    }
    Ok(text)
}

/// The flags of a run that have a key.
pub fn keyed(run: &Command) -> impl Iterator<Item = &Arg> {
    let no_key = [OWN, "help", "version"];
    run.get_arguments()
        .filter(move |arg| arg.get_long().is_some_and(|long| !no_key.contains(&long)))
}

/// A mistake, with the byte of the text where it is.
type At<T> = Result<T, (usize, Mistake)>;

fn to_arguments(text: &str, run: &Command, given: &[&str]) -> At<Vec<OsString>> {
    let table = DeTable::parse(text).map_err(|e| {
        let at = e.span().unwrap_or(Range { start: 0, end: 0 }).start;
        (at, Mistake::Syntax(e.message().into()))
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    // The first mistake of the file is reported, and devices keep their order.
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut arguments = Vec::new();
    for (key, value) in entries {
        let name = key.get_ref();
        let has_name = |arg: &&Arg| {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            arg.get_long() == Some(name) || aliases.contains(&&**name)
        };
        let Some(arg) = keyed(run).find(has_name) else {
            return Err((key.span().start, unknown(name, run)));
        };
        let flags = flags(name, arg, value)?;
        if !given.contains(&arg.get_id().as_str()) {
            arguments.extend(flags);
        }
    }
    Ok(arguments)
}

fn unknown(key: &str, run: &Command) -> Mistake {
    let keys: Vec<String> = keyed(run)
        .filter_map(Arg::get_long)
        .map(String::from)
        .collect();
    let written = key.to_lowercase().replace('_', "-");
    let likeness = |name: &String| (strsim::jaro(&written, name), name.clone());
    let nearest = keys.iter().map(likeness).max_by(|a, b| a.0.total_cmp(&b.0));
    Mistake::Unknown {
        key: key.into(),
        nearest: nearest
            .filter(|(like, _)| *like > LIKE)
            .map(|(_, name)| name),
        keys,
    }
}

/// The arguments of one key.
fn flags(key: &str, arg: &Arg, value: &Spanned<DeValue<'_>>) -> At<Vec<OsString>> {
    let at = value.span().start;
    let flag = format!("--{key}");
    let optional = arg
        .get_num_args()
        .is_some_and(|range| range.min_values() == 0);
    let wanted = match arg.get_action() {
        ArgAction::SetTrue => SWITCH,
        ArgAction::Count => COUNT,
        ArgAction::Append => LIST,
        _ if optional => OPTIONAL,
        _ => ONE,
    };
    let texts = match (wanted, value.get_ref()) {
        (SWITCH | OPTIONAL, DeValue::Boolean(on)) => {
            return Ok(on.then(|| flag.into()).into_iter().collect());
        }
        (COUNT, DeValue::Integer(number)) => {
            let count = u8::from_str_radix(number.as_str(), number.radix());
            let count = count.map_err(|_| (at, kind(key, value.get_ref(), wanted)))?;
            return Ok(vec![flag.into(); count.into()]);
        }
        (LIST, DeValue::Array(array)) => texts_of(key, array)?,
        (ONE | LIST | OPTIONAL, DeValue::String(text)) => vec![text.to_string()],
        (ONE, DeValue::Integer(number)) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            vec![
                number
                    .map_err(|_| (at, kind(key, value.get_ref(), wanted)))?
                    .to_string(),
            ]
        }
        _ => return Err((at, kind(key, value.get_ref(), wanted))),
    };
    if texts.iter().any(|text| text.contains('\0')) {
        return Err((at, Mistake::Nul { key: key.into() }));
    }
    Ok(texts
        .iter()
        .map(|text| format!("{flag}={text}").into())
        .collect())
}

fn texts_of(key: &str, array: &DeArray<'_>) -> At<Vec<String>> {
    let texts = array.iter().map(|value| match value.get_ref() {
        DeValue::String(text) => Ok(text.to_string()),
        other => Err((value.span().start, kind(key, other, LIST))),
    });
    texts.collect()
}

fn kind(key: &str, value: &DeValue<'_>, wanted: &'static str) -> Mistake {
    let given = match value {
        DeValue::String(_) => "a text".into(),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    };
    Mistake::Kind {
        key: key.into(),
        given,
        wanted,
    }
}

/// What clap says about a value, in one line without the hint that only fits a command line.
pub fn refusal(path: &Path, error: &clap::Error) -> ConfigFileError {
    let text = error.to_string();
    let said = text.split("\n\n").next().unwrap_or_default();
    let said = said.trim_start_matches("error: ");
    let words: Vec<_> = said.split_whitespace().collect();
    ConfigFileError::Value {
        path: path.into(),
        message: words.join(" "),
    }
}

#[cfg(test)]
mod tests;
