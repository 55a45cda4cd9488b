//! Which events are shown. The summary counts all of them.

use std::str::FromStr;

use crate::event::{Body, Event};

/// The kinds that `--only` knows besides those of files.
const KINDS: &[&str] = &[
    "exit",
    "coalesced",
    "process",
    "kvm",
    "vm",
    "vcpu",
    "kvm-device",
    "kvm-other",
    "container",
    "group",
    "device",
    "migration",
    "iommufd",
    "iommufd-other",
    "eventfd",
    "memory",
    "kernel",
];

/// A kind of event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind(&'static str);

/// The reason why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not a kind.
    #[error("'{0}' is not a kind of event; the kinds are {list}", list = KINDS.join(", "))]
    Kind(String),
    /// Not an address or a range.
    #[error(
        "'{0}' is no address: expected a port or an address such as 0xcf8, a range such as \
         0xfe000000-0xfe003fff, or a function of the guest such as 00:03.0"
    )]
    Address(String),
}

impl FromStr for Kind {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let known = KINDS.iter().find(|kind| **kind == text);
        known
            .map(|kind| Self(kind))
            .ok_or_else(|| FilterError::Kind(text.into()))
    }
}

/// Accesses of the guest: by port or address, or by function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// From the first to the last.
    Range(u64, u64),
    /// A function of the guest.
    Function(String),
}

impl FromStr for Address {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let error = || FilterError::Address(text.into());
        if text.contains(':') {
            let bdf: pci::bdf::Bdf = text.parse().map_err(|_| error())?;
            let name = bdf.to_string();
            let short = name.strip_prefix("0000:").map(String::from);
            return Ok(Self::Function(short.unwrap_or(name)));
        }
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).map_err(|_| error()),
            None => text.parse().map_err(|_| error()),
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(text)?, number(text)?),
        };
        if last < first {
            return Err(error());
        }
        Ok(Self::Range(first, last))
    }
}

/// Which events are shown. An event must be of a kind, of a descriptor, and of an address of the
/// lists; an empty list has all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// Names of descriptors, such as `vcpu 0`.
    pub descriptors: Vec<String>,
    /// Addresses of the guest. Calls have none.
    pub addresses: Vec<Address>,
}

impl Filter {
    /// Whether some events may not be shown.
    pub fn chooses(&self) -> bool {
        !(self.kinds.is_empty() && self.descriptors.is_empty() && self.addresses.is_empty())
    }

    /// Whether the event is shown.
    pub fn shows(&self, event: &Event) -> bool {
        // The end of an exit, if that is shown. It has no line.
        if matches!(event.body, Body::Entered) {
            return true;
        }
        let kind = kind(event);
        let of_kind = self.kinds.is_empty() || self.kinds.iter().any(|k| k.0 == kind);
        let name = event.file.as_ref().map(|file| file.name.as_str());
        let of_file = self.descriptors.is_empty()
            || self.descriptors.iter().any(|d| Some(d.as_str()) == name);
        of_kind && of_file && (self.addresses.is_empty() || self.is_at(event))
    }

    fn is_at(&self, event: &Event) -> bool {
        let (access, meaning) = match &event.body {
            Body::Exit(left) => match left.access() {
                Some(access) => (access, &left.meaning),
                None => return false,
            },
            Body::Coalesced(access, meaning) => (access, meaning),
            _ => return false,
        };
        let at = access.register.address;
        let end = at.saturating_add(access.width.max(1).into());
        self.addresses.iter().any(|address| match address {
            Address::Range(first, last) => *first < end && at <= *last,
            Address::Function(name) => meaning.function.as_ref() == Some(name),
        })
    }
}

fn kind(event: &Event) -> &'static str {
    match &event.body {
        Body::Exit(_) => "exit",
        Body::Coalesced(..) => "coalesced",
        Body::Process(_) | Body::Entered => "process",
        Body::Kernel(_) => "kernel",
        Body::Call(_) => event
            .file
            .as_ref()
            .map_or("memory", |file| file.kind.word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("0xcf8".parse(), Ok(Address::Range(0xcf8, 0xcf8)));
        assert_eq!("0x10-0x1f".parse(), Ok(Address::Range(0x10, 0x1f)));
        assert_eq!("128".parse(), Ok(Address::Range(128, 128)));
        assert_eq!(
            "0000:00:03.0".parse(),
            Ok(Address::Function("00:03.0".into()))
        );
        assert_eq!("00:03.0".parse(), Ok(Address::Function("00:03.0".into())));
        for wrong in ["", "x", "0x20-0x10", "-", "0xg", "00:40.0"] {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("0xcf8"), "{error}");
        }
        assert!("vcpu".parse::<Kind>().is_ok());
        assert!("cpu".parse::<Kind>().is_err());
    }

    #[test]
    fn each_files_kind_is_a_kind() {
        use crate::decode::value::Kind as File;
        use crate::files::open_file::FileKind::{Calls, Eventfd};
        for kind in [
            Eventfd,
            Calls(File::Kvm),
            Calls(File::Vm),
            Calls(File::Vcpu),
            Calls(File::KvmDevice),
            Calls(File::KvmOther),
            Calls(File::Container),
            Calls(File::Group),
            Calls(File::Device),
            Calls(File::Migration),
            Calls(File::Iommufd),
            Calls(File::IommufdOther),
        ] {
            assert!(kind.word().parse::<Kind>().is_ok(), "{kind:?}");
        }
    }
}
