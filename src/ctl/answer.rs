//! Answers that are errors, and other reasons why a request was not carried out.

use std::io;
use std::path::PathBuf;

use api::client::{Answer, ClientError};
use vmm::config::device::DeviceOptionError;
use vmm::given::GivenError;
use vmm::hostinfo::device_names::NameError;

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
    /// The device to add cannot be named so.
    #[error(transparent)]
    Device(#[from] DeviceOptionError),
    /// The name is none of this host.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The descriptor is no device's.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// More than one descriptor, or one that is not the first function.
    #[error("a descriptor can be given for the first function alone")]
    SecondDescriptor,
    /// The device was not removed.
    #[error("{id} was not removed: {why}")]
    NotRemoved {
        /// The device.
        id: String,
        /// The reason.
        why: String,
    },
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
            Self::Device(e) => Some(e.hint()),
            Self::Name(e) => Some(e.hint()),
            Self::Given(e) => Some(e.hint()),
            Self::SecondDescriptor => Some("name the other functions by their addresses".into()),
            Self::NotRemoved { id, .. } => Some(format!(
                "try again, with a longer --timeout; or take it without asking the guest: \
                 mini-vmm ctl PATH remove {id} --force"
            )),
            Self::Write(_) => None,
        }
    }

    /// Whether the reader of standard output has read enough.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Write(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The path of a request.
pub fn target(name: &str) -> String {
    format!("/api/v1/{name}")
}

/// The body of an answer that is no error.
///
/// # Errors
/// The error that the answer is.
pub fn accepted(answer: Answer) -> Result<Vec<u8>, CtlError> {
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
