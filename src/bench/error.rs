//! Errors: a sentence, and a hint that says what to type.

use std::io;

/// Why a measurement cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    what: String,
    hint: Option<String>,
    details: Vec<String>,
    interrupted: bool,
    #[source]
    source: Option<io::Error>,
}

/// The result of a fallible step.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error in these words.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: None,
            details: Vec::new(),
            interrupted: false,
            source: None,
        }
    }

    /// The user has ended the measurement.
    pub fn interrupted() -> Self {
        Self {
            interrupted: true,
            ..Self::new("the measurement was interrupted")
        }
    }

    /// Adds what to type.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the last lines of a guest or a program.
    #[must_use]
    pub fn with_details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }

    /// The last lines of a guest or a program.
    pub fn details(&self) -> &[String] {
        &self.details
    }

    /// What to type.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether the user has ended the measurement.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted
    }
}

/// Says what was done when an error of the system came.
pub trait Context<T> {
    /// Turns the error into a sentence, such as "cannot read /proc/cpuinfo".
    ///
    /// # Errors
    /// The error, in words.
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error {
            source: Some(source.into()),
            ..Error::new(what)
        })
    }
}
