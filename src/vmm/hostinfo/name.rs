//! The host's names of devices that can be passed through.

use std::path::PathBuf;
use std::str::FromStr;
use std::{fmt, fs};

use pci::Bdf;
use uuid::Uuid;

/// The host's name of a device, as sysfs and VFIO use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostName {
    /// A PCI function, by its address.
    Pci(Bdf),
    /// A mediated device, by its UUID: such a device has no address.
    Mediated(Uuid),
}

impl HostName {
    /// Kind and name, for a sentence.
    pub fn in_words(&self) -> String {
        match self {
            Self::Pci(bdf) => format!("PCI device {bdf}"),
            Self::Mediated(uuid) => format!("mediated device {uuid}"),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(bdf) => bdf.fmt(f),
            // Lower case, as in sysfs (drivers/vfio/mdev/mdev_core.c).
            Self::Mediated(uuid) => uuid.hyphenated().fmt(f),
        }
    }
}

/// The text names no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoName;

impl FromStr for HostName {
    type Err = NoName;

    /// `01:00.0`, `0000:01:00.0` or a UUID with its hyphens.
    fn from_str(text: &str) -> Result<Self, NoName> {
        if let Ok(bdf) = text.parse() {
            return Ok(Self::Pci(bdf));
        }
        parse_uuid(text).map(Self::Mediated).ok_or(NoName)
    }
}

/// Reads a UUID in the form that the kernel takes, with hyphens (RFC 9562, section 4).
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    // The crate also reads forms without hyphens, in braces and as a URN.
    (text.len() == uuid::fmt::Hyphenated::LENGTH).then_some(uuid)
}

/// Parses the user's name of a device: its address or UUID, or its path in sysfs. A path below
/// /sys/ that does not exist still names a device by its last component.
///
/// # Errors
/// The text names no device.
pub fn parse_address(address: &str) -> Result<HostName, NoName> {
    if !address.contains('/') {
        return address.parse();
    }
    let path: PathBuf = match fs::canonicalize(address) {
        Ok(path) => path,
        Err(_) if address.starts_with("/sys/") => address.into(),
        Err(_) => return Err(NoName),
    };
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    name.and_then(|n| n.parse().ok()).ok_or(NoName)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_kinds() {
        for (text, name, words) in [
            ("01:00.0", "0000:01:00.0", "PCI device 0000:01:00.0"),
            (
                "83B8F4F2-509F-382F-3C1E-E6BFE0FA1001",
                "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
                "mediated device 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
            ),
        ] {
            let parsed: HostName = text.parse().unwrap();
            assert_eq!(
                (parsed.to_string(), parsed.in_words()),
                (name.into(), words.into())
            );
        }
        for text in [
            "",
            "83b8f4f2509f382f3c1ee6bfe0fa1001",
            "{83b8f4f2-509f-382f-3c1e-e6bfe0fa1001}",
            "83b8f4f2-509f-382f-3c1e-e6bfe0fa100",
            "83b8f4f2-509f-382f-3c1e-e6bfe0fa100g",
            "83b8f4f25-09f-382f-3c1e-e6bfe0fa1001",
        ] {
            assert_eq!(text.parse::<HostName>(), Err(NoName), "{text}");
        }
    }
}
