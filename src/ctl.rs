//! `mini-vmm ctl`: sends a request to the socket of a running guest, and prints the answer.
//!
//! | file | what |
//! | --- | --- |
//! | `text` | answers for people |
//! | `tree` | `vm.pci` for people |

mod text;
mod tree;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use api::client::{Answer, Client, ClientError};
use serde_json::Value;

use crate::cli::ctl::{CtlArgs, EventsArgs, Verb};

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// There is no answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer is an error.
    #[error("{message}")]
    Refused {
        /// The message with its causes.
        message: String,
        /// The remedy that the answer names.
        hint: Option<String>,
    },
    /// The answer is not what this version knows.
    #[error("the answer of {} is not understood", .0.display())]
    Answer(PathBuf),
    /// Standard output is closed or full.
    #[error("cannot write to standard output")]
    Write(#[from] io::Error),
}

impl CtlError {
    /// The remedy.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Client(e) => e.hint(),
            Self::Refused { hint, .. } => hint.clone(),
            Self::Answer(_) => {
                Some("use the version of mini-vmm that runs the guest, or --json".into())
            }
            Self::Write(_) => None,
        }
    }

    /// Whether the reader of standard output has read enough.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Write(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Carries out a request, and prints its answer to `out`.
///
/// # Errors
/// Nobody listens, or the request is refused.
pub fn ctl(args: &CtlArgs, out: &mut impl Write) -> Result<(), CtlError> {
    let path = &args.path;
    match &args.verb {
        Verb::Info { json } => show(path, "vm.info", *json, text::info, out),
        Verb::Pci { json } => show(path, "vm.pci", *json, tree::tree, out),
        Verb::Counters { json } => show(path, "vm.counters", *json, text::counters, out),
        Verb::Pause => change(path, "vm.pause"),
        Verb::Resume => change(path, "vm.resume"),
        Verb::Reboot => change(path, "vm.reboot"),
        Verb::PowerButton => change(path, "vm.power-button"),
        Verb::Shutdown => change(path, "vm.shutdown"),
        Verb::Events(args) => events(path, args, out),
    }
}

/// The path of a request.
fn target(name: &str) -> String {
    format!("/api/v1/{name}")
}

fn change(path: &Path, name: &str) -> Result<(), CtlError> {
    let answer = Client::connect(path)?.ask("PUT", &target(name), None)?;
    accepted(answer).map(|_| ())
}

/// Prints an answer as JSON, or for people by `text`. `text` returns `None` if a field is missing.
fn show(
    path: &Path,
    name: &str,
    json: bool,
    text: fn(&Value) -> Option<String>,
    out: &mut impl Write,
) -> Result<(), CtlError> {
    let answer = Client::connect(path)?.ask("GET", &target(name), None)?;
    let body = accepted(answer)?;
    let misunderstood = || CtlError::Answer(path.into());
    let value: Value = serde_json::from_slice(&body).map_err(|_| misunderstood())?;
    let text = match json {
        true => serde_json::to_string_pretty(&value).ok().map(|t| t + "\n"),
        false => text(&value),
    };
    out.write_all(text.ok_or_else(misunderstood)?.as_bytes())?;
    Ok(())
}

/// The body of an answer that is no error.
fn accepted(answer: Answer) -> Result<Vec<u8>, CtlError> {
    if answer.status < 300 {
        return Ok(answer.body);
    }
    let lines: Vec<String> = serde_json::from_slice(&answer.body).unwrap_or_default();
    let (hints, messages): (Vec<_>, Vec<_>) =
        lines.iter().partition(|line| line.starts_with("hint: "));
    let message = match messages[..] {
        [] => format!("the answer has status {}", answer.status),
        _ => messages.into_iter().cloned().collect::<Vec<_>>().join(": "),
    };
    let hint = hints.first().and_then(|hint| hint.strip_prefix("hint: "));
    Err(CtlError::Refused {
        message,
        hint: hint.map(String::from),
    })
}

/// Prints events until the run ends.
fn events(path: &Path, args: &EventsArgs, out: &mut impl Write) -> Result<(), CtlError> {
    let mut target = target("vm.events");
    if let Some(since) = args.since {
        target += &format!("?since={since}");
    }
    let mut outcome = Ok(());
    let answer = Client::connect(path)?.follow(&target, |line| {
        let event: Option<Value> = serde_json::from_str(line).ok();
        let text = match (&event, args.json) {
            (Some(event), false) => text::event(event).unwrap_or_else(|| line.into()),
            _ => line.into(),
        };
        outcome = writeln!(out, "{text}").and_then(|()| out.flush());
        outcome.is_ok()
    })?;
    outcome?;
    answer.map_or(Ok(()), |answer| accepted(answer).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_causes_and_its_hint() {
        let answer = |status, body: &str| Answer {
            status,
            body: body.into(),
        };
        let refused = |a: Answer| match accepted(a).unwrap_err() {
            CtlError::Refused { message, hint } => (message, hint),
            other => panic!("{other}"),
        };
        assert_eq!(
            refused(answer(405, r#"["no", "why", "hint: do"]"#)),
            ("no: why".into(), Some("do".into()))
        );
        assert_eq!(
            refused(answer(500, "<html>")),
            ("the answer has status 500".into(), None)
        );
        assert_eq!(accepted(answer(204, "")).unwrap(), b"");
    }
}
