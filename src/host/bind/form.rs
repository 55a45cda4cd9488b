//! The form of the files under /run/mini-vmm: one JSON object with a `version`.
//!
//! Version 1 was a text of lines ([`super::old_form`]). A file of a later version is left alone: its
//! fields may mean what this program does not know.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version that is written and read.
const VERSION: u32 = 2;

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FormError {
    /// The bytes are not what any version of this program writes.
    Damaged,
    /// The file has this version.
    Unknown(String),
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    content: &'a T,
}

#[derive(Deserialize)]
struct Version {
    version: Value,
}

/// Makes a file's text of a record or of the journal.
pub(super) fn to_text<T: Serialize>(content: &T) -> serde_json::Result<String> {
    let version = VERSION;
    let text = serde_json::to_string_pretty(&Versioned { version, content })?;
    Ok(text + "\n")
}

/// Reads what [`to_text`] made. Unknown fields are skipped.
///
/// # Errors
/// When it is damaged, or of another version.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormError> {
    let damaged = |_| FormError::Damaged;
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(FormError::Unknown(version.to_string()));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}
