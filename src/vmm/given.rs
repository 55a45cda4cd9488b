//! Files that another process has opened for this one: `--kvm fd=N`, `--iommu fd=N` and
//! `--vfio fd=N`. A process without the right to open a device can so run a guest.
//!
//! Each file is checked before the run: it is what its flag says, and not more was done with it
//! than opening.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use iommufd_ioctls::{IommuFd, IommufdError};
use kvm_bindings::KVM_API_VERSION;

use crate::hostinfo::name::HostName;
use crate::hostinfo::node_of::{NodeOf, node_of};
use crate::hostinfo::sysfs::Sysfs;
use crate::sys::descriptor::{Descriptor, DescriptorError, char_device, is_writable, name_of};
use crate::sys::kvm_file::kvm;

/// The node that a group's file is no file of.
const OWN_NODE: &str = "open the device's own node in /dev/vfio/devices; its name is that in \
     ls /sys/bus/pci/devices/ADDR/vfio-dev";

/// The reason why a file that was handed over cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GivenError {
    /// The text is no number.
    #[error("`{text}` is not the number of an open file for {flag}")]
    Number {
        /// The flag.
        flag: &'static str,
        /// What the user wrote.
        text: String,
    },
    /// The number has no file, or not one for this flag.
    #[error("{flag} fd={}: {source}", number_of(.source))]
    Descriptor {
        /// The flag.
        flag: &'static str,
        /// Why not.
        source: DescriptorError,
    },
    /// The file is another one.
    #[error("{flag} fd={number}: the file is {name}, not {wanted}")]
    Other {
        /// The flag.
        flag: &'static str,
        /// The descriptor.
        number: i32,
        /// What the kernel calls the file.
        name: String,
        /// What the flag takes.
        wanted: &'static str,
    },
    /// The file is an IOMMU group.
    #[error(
        "--vfio fd={number}: the file is IOMMU group {group}, which gives its devices only in a \
         container, and each of them anew; this program takes the file of one device"
    )]
    Group {
        /// The descriptor.
        number: i32,
        /// The group's name.
        group: String,
    },
    /// The file cannot be written.
    #[error("--vfio fd={number}: the file was not opened for reading and writing")]
    ReadOnly {
        /// The descriptor.
        number: i32,
    },
    /// sysfs does not know the device.
    #[error("--vfio fd={number}: /sys/dev/char does not say which device {name} is")]
    NoDevice {
        /// The descriptor.
        number: i32,
        /// What the kernel calls the file.
        name: String,
    },
    /// The file came with a request, and not by a number of a flag.
    #[error("the file that came with the request {}", after_number(.0))]
    Received(Box<GivenError>),
    /// A device that is given by its open node cannot have `managed=on`.
    #[error("{0} is bound to VFIO already, and cannot be bound for this run alone")]
    Managed(HostName),
    /// The interface does not take the file of a device.
    #[error("--iommu container does not take the open device {0}")]
    Container(HostName),
}

/// The sentence about a file of --vfio, after the file.
fn after_number(error: &GivenError) -> String {
    let text = error.to_string();
    let (_, after) = text.split_once(": ").unwrap_or(("", &text));
    let after = after.strip_prefix("the file ").unwrap_or(after);
    match error {
        GivenError::NoDevice { .. } => "is not known: ".to_owned() + after,
        _ => after.to_owned(),
    }
}

fn number_of(error: &DescriptorError) -> i32 {
    use DescriptorError::{Closed, Limit, Standard, Twice};
    let (Standard(n) | Closed(n) | Twice(n) | Limit(n)) = error;
    *n
}

impl GivenError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Number { flag, .. } => {
                format!("give the number of a file that is open at the start, such as {flag} fd=7")
            }
            Self::Descriptor { flag, source } => match source {
                DescriptorError::Standard(_) => format!("take a number from 3 on: {flag} fd=7"),
                DescriptorError::Closed(n) => format!(
                    "open it before the start, in a shell for example with {n}<>NODE at the end \
                     of the command"
                ),
                DescriptorError::Twice(_) => "open a file for each flag".into(),
                DescriptorError::Limit(_) => "raise the limit with `ulimit -n 4096`".into(),
            },
            Self::Other { number, wanted, .. } => match *wanted {
                DEVICE => OWN_NODE.into(),
                node => format!("open {node}, in a shell for example with {number}<>{node}"),
            },
            Self::Group { .. } => OWN_NODE.into(),
            Self::ReadOnly { number } => {
                format!("open it for both, in a shell for example with {number}<>NODE")
            }
            Self::NoDevice { .. } => "mount sysfs at /sys in the namespace of this process".into(),
            Self::Received(error) => match **error {
                Self::ReadOnly { .. } => "open it for reading and writing".into(),
                _ => error.hint(),
            },
            Self::Managed(_) => "leave managed=on out".into(),
            Self::Container(_) => "leave --iommu out, or give --iommu iommufd".into(),
        }
    }
}

const DEVICE: &str = "a device's node in /dev/vfio/devices";

/// The number in `fd=N`; `None` for any other text.
pub fn number(text: &str) -> Option<&str> {
    text.strip_prefix("fd=")
}

/// Takes over the file of a flag.
fn take_over(flag: &'static str, text: &str) -> Result<(Descriptor, File), GivenError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    let number = number.ok_or_else(|| GivenError::Number {
        flag,
        text: text.into(),
    })?;
    let source = |source| GivenError::Descriptor { flag, source };
    let given = Descriptor::take_over(number).map_err(source)?;
    let file = given.look();
    Ok((
        given,
        file.map_err(|_| source(DescriptorError::Limit(number)))?,
    ))
}

fn other(flag: &'static str, given: Descriptor, wanted: &'static str) -> GivenError {
    let number = given.number();
    GivenError::Other {
        flag,
        number,
        name: name_of(number),
        wanted,
    }
}

/// Takes over the file of `--kvm fd=N`. `text` is the flag's value.
///
/// # Errors
/// The file is not /dev/kvm: KVM_GET_API_VERSION has another answer.
pub fn kvm_file(text: &str) -> Result<Descriptor, GivenError> {
    const FLAG: &str = "--kvm";
    let digits = number(text).ok_or_else(|| GivenError::Number {
        flag: FLAG,
        text: text.into(),
    })?;
    let (given, file) = take_over(FLAG, digits)?;
    match kvm(file).get_api_version() == KVM_API_VERSION as i32 {
        true => Ok(given),
        false => Err(other(FLAG, given, "/dev/kvm")),
    }
}

/// Takes over the file of `--iommu fd=N`. `digits` is N.
///
/// # Errors
/// The file is not /dev/iommu.
pub fn iommufd(digits: &str) -> Result<Descriptor, GivenError> {
    const FLAG: &str = "--iommu";
    let (given, file) = take_over(FLAG, digits)?;
    match is_iommufd(file) {
        true => Ok(given),
        false => Err(other(FLAG, given, "/dev/iommu")),
    }
}

/// Only an iommufd knows that it has no object of this number (IOMMU_DESTROY, ENOENT). The call
/// changes nothing.
fn is_iommufd(file: File) -> bool {
    let answer = IommuFd::new_from_fd(file).destroy_iommu_object(u32::MAX);
    let errno = match answer {
        Err(IommufdError::IommuDestroy(e)) => e.errno(),
        _ => 0,
    };
    errno == libc::ENOENT
}

/// Takes over the file of `--vfio fd=N`, and finds out which device the file is. `digits` is N.
///
/// # Errors
/// The file is not a device's own node.
pub fn device(sysfs: &Sysfs, digits: &str) -> Result<(Descriptor, HostName), GivenError> {
    let (given, file) = take_over(VFIO, digits)?;
    device_of(sysfs, given, file).map(|name| (given, name))
}

/// Takes over the file of a device that came with a request, by SCM_RIGHTS. Nobody keeps it open
/// after an error.
///
/// # Errors
/// The file is not a device's own node.
pub fn received(sysfs: &Sysfs, file: OwnedFd) -> Result<(Descriptor, HostName), GivenError> {
    let given = Descriptor::adopt(file);
    let number = given.number();
    let limit = |_| GivenError::Descriptor {
        flag: VFIO,
        source: DescriptorError::Limit(number),
    };
    let found = given.look().map_err(limit);
    let found = found.and_then(|file| device_of(sysfs, given, file));
    found.map(|name| (given, name)).map_err(|e| {
        given.close();
        GivenError::Received(Box::new(e))
    })
}

const VFIO: &str = "--vfio";

/// Finds out which device a file is.
fn device_of(sysfs: &Sysfs, given: Descriptor, file: File) -> Result<HostName, GivenError> {
    const FLAG: &str = VFIO;
    let number = given.number();
    let node = char_device(&file).ok_or_else(|| other(FLAG, given, DEVICE))?;
    let found = node_of(sysfs, node).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => GivenError::NoDevice {
            number,
            name: name_of(number),
        },
        _ => other(FLAG, given, DEVICE),
    })?;
    match found {
        NodeOf::Device(_) if !is_writable(&file) => Err(GivenError::ReadOnly { number }),
        NodeOf::Device(name) => Ok(name),
        NodeOf::Group(group) => Err(GivenError::Group { number, group }),
        NodeOf::Other => Err(other(FLAG, given, DEVICE)),
    }
}
