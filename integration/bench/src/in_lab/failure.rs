//! Converts errors of the crate `lab` to errors of the bench.

use crate::error::Error;

impl From<lab::Error> for Error {
    fn from(error: lab::Error) -> Self {
        Self::new(error.to_string())
    }
}
