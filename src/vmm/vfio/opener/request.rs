//! The calls that may sleep in the kernel for ever, as messages to the process that makes them.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use crate::hostinfo::looker::Look;

/// A call. The files that it needs are sent along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Opens a node for reading and writing. The node of an IOMMU group waits for the group's lock,
    /// which the kernel holds while it opens or closes a device of the group.
    Open(String),
    /// Reads a file of sysfs, for which the kernel asks the device. The answer is a file with the
    /// bytes.
    Read(String),
    /// The same for the first 256 bytes of a device's `config`: the kernel reads register by
    /// register, and has 4 KiB.
    ReadStart(String),
    /// VFIO_GROUP_GET_DEVICE_FD for a device's name. The file is the group's.
    DeviceOfGroup(CString),
    /// VFIO_DEVICE_BIND_IOMMUFD. The files are the device's and the iommufd.
    Bind {
        /// The VF token.
        token: Option<[u8; 16]>,
    },
    /// VFIO_DEVICE_BIND_IOMMUFD as a question: whether it takes a VF token. The file is the
    /// device's. The kernel answers EINVAL if not.
    AskToken,
    /// VFIO_DEVICE_ATTACH_IOMMUFD_PT. The file is the device's.
    Attach {
        /// The I/O address space.
        ioas: u32,
    },
    /// VFIO_DEVICE_DETACH_IOMMUFD_PT. The file is the device's.
    Detach,
    /// VFIO_DEVICE_RESET. The file is the device's.
    Reset,
    /// VFIO_DEVICE_PCI_HOT_RESET. The files are the device's and those of all affected groups.
    HotReset,
    /// A write to a region, which resets the device or changes its power state. The file is the
    /// device's.
    Write {
        /// The offset in the device's file.
        at: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Closes the file, the last one that the device has.
    Close,
    /// Adds devices to those of the run. The file is the connection of a client whose next request
    /// names them, or the open node of the device.
    Admit,
    /// Looks at other processes. The answer is a file with the lines.
    Look {
        /// The process that asks, which is none of the others.
        asker: u32,
        /// The question.
        look: Look,
    },
}

impl Request {
    /// The names of all calls.
    pub const NAMES: [&str; 12] = [
        "open",
        "a read of sysfs",
        "VFIO_GROUP_GET_DEVICE_FD",
        "VFIO_DEVICE_BIND_IOMMUFD",
        "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
        "VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "VFIO_DEVICE_RESET",
        "VFIO_DEVICE_PCI_HOT_RESET",
        "a region write",
        "close",
        "a look at /proc",
        "a look at a request",
    ];

    /// The call's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Read(_) | Self::ReadStart(_) => "a read of sysfs",
            Self::DeviceOfGroup(_) => "VFIO_GROUP_GET_DEVICE_FD",
            Self::Bind { .. } | Self::AskToken => "VFIO_DEVICE_BIND_IOMMUFD",
            Self::Attach { .. } => "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
            Self::Detach => "VFIO_DEVICE_DETACH_IOMMUFD_PT",
            Self::Reset => "VFIO_DEVICE_RESET",
            Self::HotReset => "VFIO_DEVICE_PCI_HOT_RESET",
            Self::Write { .. } => "a region write",
            Self::Close => "close",
            Self::Look { .. } => "a look at /proc",
            Self::Admit => "a look at a request",
        }
    }

    /// What the call does while it sleeps.
    pub(super) fn does(&self) -> &'static str {
        match self {
            Self::DeviceOfGroup(_) | Self::Bind { .. } => "the call opens the device and resets it",
            Self::Read(_) | Self::ReadStart(_) => {
                "the call wakes the device, or waits for its reset"
            }
            Self::Open(_) | Self::AskToken | Self::Attach { .. } | Self::Detach => {
                "the call waits for another call for the device, for its group, or for a device \
                 that is reset with it"
            }
            Self::Reset | Self::HotReset => "the call resets the device",
            Self::Write { .. } => "the call resets the device or wakes it",
            Self::Close => "the call resets the device",
            Self::Look { .. } => "the call reads files of other processes",
            Self::Admit => "the call reads what a client has sent",
        }
    }

    /// The request as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, rest): (u8, Vec<u8>) = match self {
            Self::Open(path) => (0, path.clone().into_bytes()),
            Self::DeviceOfGroup(name) => (1, name.to_bytes().into()),
            Self::Bind { token } => (2, token.map_or_else(Vec::new, Vec::from)),
            Self::Attach { ioas } => (3, ioas.to_le_bytes().into()),
            Self::Detach => (4, Vec::new()),
            Self::Reset => (5, Vec::new()),
            Self::HotReset => (6, Vec::new()),
            Self::Write { at, data } => (7, [&at.to_le_bytes(), data.as_slice()].concat()),
            Self::Close => (8, Vec::new()),
            Self::Read(path) => (9, path.clone().into_bytes()),
            Self::AskToken => (10, Vec::new()),
            Self::Admit => (13, Vec::new()),
            Self::ReadStart(path) => (14, path.clone().into_bytes()),
            Self::Look { asker, look } => match look {
                Look::Holders(nodes) => {
                    let nodes = nodes.join("\n");
                    (11, [&asker.to_le_bytes(), nodes.as_bytes()].concat())
                }
                Look::Locked => (12, asker.to_le_bytes().into()),
            },
        };
        [&[kind], rest.as_slice()].concat()
    }

    /// The request from its bytes; `None` if the bytes are no request.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        Some(match kind {
            0 => Self::Open(String::from_utf8(rest.into()).ok()?),
            1 => Self::DeviceOfGroup(CString::new(rest).ok()?),
            2 if rest.is_empty() => Self::Bind { token: None },
            2 => Self::Bind {
                token: Some(rest.try_into().ok()?),
            },
            3 => Self::Attach {
                ioas: u32::from_le_bytes(rest.try_into().ok()?),
            },
            4 => Self::Detach,
            5 => Self::Reset,
            6 => Self::HotReset,
            7 => {
                let (at, data) = rest.split_first_chunk()?;
                Self::Write {
                    at: u64::from_le_bytes(*at),
                    data: data.into(),
                }
            }
            8 => Self::Close,
            10 => Self::AskToken,
            13 => Self::Admit,
            9 => Self::Read(String::from_utf8(rest.into()).ok()?),
            14 => Self::ReadStart(String::from_utf8(rest.into()).ok()?),
            11 => {
                let (asker, nodes) = rest.split_first_chunk()?;
                let nodes = str::from_utf8(nodes).ok()?.split('\n');
                let nodes = nodes.filter(|node| !node.is_empty()).map(Into::into);
                Self::Look {
                    asker: u32::from_le_bytes(*asker),
                    look: Look::Holders(nodes.collect()),
                }
            }
            12 => Self::Look {
                asker: u32::from_le_bytes(rest.try_into().ok()?),
                look: Look::Locked,
            },
            _ => return None,
        })
    }
}

/// Makes the calls: the kernel, or a test.
pub trait Calls: Send + Sync {
    /// Makes a call with its files. Returns the file that the call has opened.
    ///
    /// # Errors
    /// The errno.
    fn make(&self, request: &Request, files: Vec<File>) -> io::Result<Option<OwnedFd>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_arrives_as_it_was() {
        for request in [
            Request::Open("/dev/vfio/7".into()),
            Request::Read("/sys/x".into()),
            Request::ReadStart("/sys/x".into()),
            Request::DeviceOfGroup(c"0000:01:00.0 vf_token=x".into()),
            Request::Bind { token: None },
            Request::Bind {
                token: Some([7; 16]),
            },
            Request::Attach { ioas: 0x1234_5678 },
            Request::Detach,
            Request::Reset,
            Request::HotReset,
            Request::Write {
                at: 0x7000_0000_0059,
                data: vec![0x80],
            },
            Request::Close,
            Request::AskToken,
            Request::Admit,
            Request::Look {
                asker: 0x0102_0304,
                look: Look::Holders(vec!["/dev/vfio/7".into(), "/dev/iommu".into()]),
            },
            Request::Look {
                asker: 7,
                look: Look::Holders(Vec::new()),
            },
            Request::Look {
                asker: 7,
                look: Look::Locked,
            },
        ] {
            assert!(Request::NAMES.contains(&request.name()), "{request:?}");
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for nonsense in [
            &[][..],
            &[15],
            &[14, 0xff],
            &[11, 1, 2, 3],
            &[11, 1, 2, 3, 4, 0xff],
            &[12, 1, 2, 3, 4, 5],
            &[9, 0xff],
            &[1, 0],
            &[2, 1],
            &[3, 1],
            &[7, 1],
            &[0, 0xff],
        ] {
            assert_eq!(Request::decode(nonsense), None, "{nonsense:?}");
        }
    }
}
