//! The bench's errors: a message with its cause, and for some a second line with a hint.

use std::fmt::Display;

/// The bench's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What stopped a measurement, or the whole bench.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// An error without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// The same with a hint of what to type.
    pub fn with_hint(message: impl Display, hint: impl Display) -> Self {
        Self(format!("{message}\nhint: {hint}"))
    }
}

/// Says what was being done when another error came up.
pub trait Context<T> {
    /// `what` reads as "cannot {what}: {cause}".
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|cause| Error::new(format!("cannot {what}: {cause}")))
    }
}
