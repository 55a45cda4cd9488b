//! The lab's errors: one sentence with its cause, and a line that says what to do.
//! A lab that cannot run and a test that fails are different things, so they are different variants.

use std::fmt::Display;

/// The lab's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What stopped the lab.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Something outside the project is missing, so nothing was tested.
    #[error("{sentence}\nhint: {hint}")]
    CannotRun {
        /// What is missing and why it is needed.
        sentence: String,
        /// What to type.
        hint: String,
    },
    /// Something that should have worked did not.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The machine lacks something.
    pub fn cannot_run(sentence: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::CannotRun {
            sentence: sentence.into(),
            hint: hint.into(),
        }
    }

    /// Something went wrong.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self::Failed(sentence.into())
    }
}

/// Says what was being done when an error of the standard library came up.
pub trait Context<T> {
    /// `what` reads as "cannot {what}: {cause}".
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|cause| Error::failed(format!("cannot {what}: {cause}")))
    }
}
