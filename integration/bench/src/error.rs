//! The bench's errors: a message with its cause, and for some a second line with a hint.

use std::fmt::Display;

/// The bench's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that stops a measurement or the whole bench.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// An error without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// An error with a hint, most often a command to type.
    pub fn with_hint(message: impl Display, hint: impl Display) -> Self {
        Self(format!("{message}\nhint: {hint}"))
    }
}

/// Adds the action that failed to an error.
pub trait Context<T> {
    /// Makes the message "cannot {what}: {cause}".
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|cause| Error::new(format!("cannot {what}: {cause}")))
    }
}
