//! The lab's errors: one message with its cause, and a hint. A host that cannot run the lab and a
//! failed test are different variants, because only the first may be skipped.

use std::fmt::Display;

/// The lab's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the lab.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The host lacks something that the lab needs, so nothing was tested.
    #[error("{message}\nhint: {hint}")]
    CannotRun {
        /// The missing thing, and the reason why the lab needs it.
        message: String,
        /// The remedy: a command, where there is one.
        hint: String,
    },
    /// A test or a step of the lab failed.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Makes the error of a host that cannot run the lab.
    pub fn cannot_run(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::CannotRun {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Makes the error of a failed test or step.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }
}

/// Adds the action that failed to an error of the standard library.
pub trait Context<T> {
    /// Makes the message "cannot {what}: {cause}".
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|cause| Error::failed(format!("cannot {what}: {cause}")))
    }
}
