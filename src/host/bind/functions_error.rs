//! Why a device does not make the virtual functions that the user asked for.
//!
//! A write to `sriov_numvfs` calls the physical function's driver (drivers/pci/iov.c,
//! `sriov_numvfs_store`). The errno is the kernel's or the driver's.

use std::io;

use pci::Bdf;

/// The reason why virtual functions were not made.
#[derive(Debug, thiserror::Error)]
pub enum FunctionsError {
    /// The write failed.
    #[error("PCI device {bdf} makes no {asked} virtual functions: {}", cause(.source))]
    Refused {
        /// The physical function.
        bdf: Bdf,
        /// How many the user asked for.
        asked: u32,
        /// The errno.
        source: io::Error,
    },
    /// The write succeeded, and there are fewer functions.
    #[error("PCI device {bdf} made {made} virtual functions, not {asked}")]
    Fewer {
        /// The physical function.
        bdf: Bdf,
        /// How many there were.
        made: u32,
        /// How many the user asked for.
        asked: u32,
    },
}

/// What an errno means for virtual functions.
fn cause(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(libc::ENOENT) => "it has no driver, or a driver that makes none",
        Some(libc::ENOMEM) => "the firmware has left no addresses or bus numbers for so many",
        Some(libc::ENOSPC) => "the device has no queues or interrupts left for so many",
        Some(libc::EBUSY) => "its driver is busy, or has made some already",
        Some(libc::EAGAIN) => "its driver is busy with a reset or a test",
        Some(libc::EPERM | libc::EOPNOTSUPP | libc::EINVAL) => {
            "its driver does not make so many in the device's present mode"
        }
        Some(libc::ERANGE) => "these are more than the driver allows",
        Some(libc::EIO | libc::ETIMEDOUT | libc::ENODEV) => "the device does not answer",
        _ => return error.to_string(),
    };
    format!("{text} ({error})")
}

impl FunctionsError {
    /// The remedy, most often a command to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Fewer { bdf, made: 0, .. } => {
                format!("find the reason with `dmesg | grep {bdf}`")
            }
            Self::Fewer { made, .. } => format!("give --vfs {made}"),
            Self::Refused { bdf, source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT) => format!(
                    "bind the device to its own driver first: mini-vmm host unbind {bdf}; the \
                     driver must support SR-IOV (`ls /sys/bus/pci/devices/{bdf}/driver`)"
                ),
                Some(libc::ENOMEM) => format!(
                    "turn SR-IOV and addresses above 4 GiB on in the firmware, boot the host with \
                     pci=realloc,assign-busses, or give a smaller --vfs; `dmesg | grep {bdf}` \
                     names what lacks"
                ),
                Some(libc::ENOSPC | libc::ERANGE) => "give a smaller --vfs".into(),
                Some(libc::EBUSY) => format!(
                    "remove them first, as root: echo 0 > \
                     /sys/bus/pci/devices/{bdf}/sriov_numvfs"
                ),
                Some(libc::EAGAIN) => "type the same command again in some seconds".into(),
                _ => format!("find the reason with `dmesg | grep {bdf}`"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_its_sentence() {
        let mut seen = Vec::new();
        for (errno, says, hint) in [
            (libc::ENOENT, "has no driver", "host unbind 0000:03:00.0"),
            (libc::ENOMEM, "the firmware", "pci=realloc"),
            (libc::ENOSPC, "no queues", "smaller --vfs"),
            (libc::EBUSY, "some already", "echo 0 >"),
            (libc::EAGAIN, "a reset", "again"),
            (libc::EPERM, "present mode", "dmesg"),
            (libc::ERANGE, "driver allows", "smaller --vfs"),
            (libc::EIO, "does not answer", "dmesg"),
            (libc::E2BIG, "Argument list", "dmesg"),
        ] {
            let error = FunctionsError::Refused {
                bdf: "0000:03:00.0".parse().unwrap(),
                asked: 3,
                source: io::Error::from_raw_os_error(errno),
            };
            let text = error.to_string();
            assert!(text.contains("makes no 3 virtual functions: "), "{text}");
            assert!(
                text.contains(says) && text.contains(&format!("os error {errno}")),
                "{text}"
            );
            assert!(error.hint().contains(hint), "{}", error.hint());
            assert!(!seen.contains(&text));
            seen.push(text);
        }
    }
}
