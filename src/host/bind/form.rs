//! The form of the files under /run/mini-vmm: one JSON object with a `version`.
//!
//! Version 1 was a text of lines ([`super::old_form`]). The program refuses a file of a later
//! version: its fields may have another meaning.

use pci::Bdf;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use vmm::sys::process::Process;

/// The version that the program writes.
const VERSION: u32 = 2;

/// The reason why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FormError {
    /// The file was not written by any version of this program, or is damaged.
    Damaged,
    /// The file has another version, named here.
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

/// Makes the text of a file from a record or the journal.
pub(super) fn to_text<T: Serialize>(content: &T) -> serde_json::Result<String> {
    let version = VERSION;
    let text = serde_json::to_string_pretty(&Versioned { version, content })?;
    Ok(text + "\n")
}

/// Reads a text that [`to_text`] made. Unknown fields are skipped.
///
/// # Errors
/// [`FormError::Damaged`] if the text is not JSON or a required field is missing,
/// [`FormError::Unknown`] if the text has another version.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormError> {
    let damaged = |_| FormError::Damaged;
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(FormError::Unknown(version.to_string()));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Reads an address from its text.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bdf, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

/// Reads an address, or `null`.
pub(super) fn optional_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Bdf>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let bdf = text.map(|text| text.parse().map_err(D::Error::custom));
    bdf.transpose()
}

/// A process by its number and its start time.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Process")]
struct ProcessFields {
    pid: u32,
    started: u64,
}

#[derive(Serialize, Deserialize)]
struct Run(#[serde(with = "ProcessFields")] Process);

/// Writes the process of a run.
pub(super) fn write_run<S: Serializer>(
    run: &Option<Process>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    run.map(Run).serialize(serializer)
}

/// Reads the process of a run, or `null`.
pub(super) fn run<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Process>, D::Error> {
    let run = Option::<Run>::deserialize(deserializer)?;
    Ok(run.map(|Run(process)| process))
}
