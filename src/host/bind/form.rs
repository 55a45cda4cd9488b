//! The form of the files under /run/mini-vmm: one JSON object with a `version`.
//!
//! Version 1 was a text of lines ([`super::old_form`]). This program does not read a file of a
//! later version: the meaning of its fields may differ.

use pci::Bdf;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use vmm::sys::process::Process;

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

/// Reads an address from its text.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bdf, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

/// Reads an address that may be missing.
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

/// Reads the process of a run, which may be missing.
pub(super) fn run<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Process>, D::Error> {
    let run = Option::<Run>::deserialize(deserializer)?;
    Ok(run.map(|Run(process)| process))
}
