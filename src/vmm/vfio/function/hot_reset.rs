//! The reset of a whole slot or bus, for functions that have none of their own
//! (`include/uapi/linux/vfio.h`, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and VFIO_DEVICE_PCI_HOT_RESET).
//!
//! The kernel does it only for one who owns every function that it would reset. With groups the
//! proof is a descriptor of each group; with iommufd the kernel sees it by itself.

use std::fs::{self, File};
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use pci::Bdf;
use vfio_bindings::bindings::vfio::{VFIO_BASE, VFIO_PCI_HOT_RESET_FLAG_DEV_ID, VFIO_TYPE};
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_ptr};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    VFIO_TYPE.into(),
    VFIO_BASE + 12
);
ioctl_io_nr!(VFIO_DEVICE_PCI_HOT_RESET, VFIO_TYPE.into(), VFIO_BASE + 13);

/// `struct vfio_pci_hot_reset_info` and `struct vfio_pci_hot_reset` begin alike: argsz, flags, count.
const HEADER: usize = 3;
/// `struct vfio_pci_dependent_device`: a group or device ID, then segment, bus and devfn.
const ENTRY: usize = 2;
/// As many functions as a bus has.
const USUAL: usize = 256;
/// More functions than hang on one slot of any machine.
const MOST: usize = 1 << 16;

/// What a hot reset would reset.
#[derive(Debug, PartialEq, Eq)]
pub struct Scope {
    /// Each function, with its group where groups are the proof.
    functions: Vec<(Bdf, Option<u32>)>,
}

impl Scope {
    /// Asks the kernel.
    ///
    /// # Errors
    /// ENODEV where neither slot nor bus can be reset, ENOTTY for a device that is not on PCI.
    pub fn of(device: &File) -> io::Result<Self> {
        let mut room = USUAL;
        loop {
            let mut words = vec![0u32; HEADER + room * ENTRY];
            words[0] = size_of_val(words.as_slice()) as u32;
            // SAFETY: the buffer is as long as its argsz says, and lives for the call.
            let ret = unsafe {
                ioctl_with_mut_ptr(
                    device,
                    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO(),
                    words.as_mut_ptr(),
                )
            };
            if ret == 0 {
                return Ok(Self::parse(&words));
            }
            let error = io::Error::last_os_error();
            let count = words[2] as usize;
            if error.raw_os_error() != Some(libc::ENOSPC) || count <= room || count > MOST {
                return Err(error);
            }
            room = count;
        }
    }

    fn parse(words: &[u32]) -> Self {
        let header = (words.get(1).copied(), words.get(2).copied());
        let (Some(flags), Some(count)) = header else {
            return Self { functions: vec![] };
        };
        let by_group = flags & VFIO_PCI_HOT_RESET_FLAG_DEV_ID == 0;
        let entries = words.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY);
        let functions = entries.take(count as usize).filter_map(|entry| {
            let [id, place] = *entry else {
                return None;
            };
            let [low, high, bus, devfn] = place.to_le_bytes();
            let bdf = Bdf {
                segment: u16::from_le_bytes([low, high]),
                bus,
                device: devfn >> 3,
                function: devfn & 7,
            };
            Some((bdf, by_group.then_some(id)))
        });
        Self {
            functions: functions.collect(),
        }
    }

    /// The addresses of the functions.
    pub fn functions(&self) -> impl Iterator<Item = Bdf> {
        self.functions.iter().map(|(bdf, _)| *bdf)
    }

    /// Resets them all.
    ///
    /// # Errors
    /// The errno: EINVAL where one of them is not ours, ENODEV where one is bound to no VFIO driver.
    pub fn reset(&self, device: &File) -> io::Result<()> {
        let mut groups: Vec<u32> = self.functions.iter().filter_map(|(_, g)| *g).collect();
        groups.sort_unstable();
        groups.dedup();
        let mut words = vec![0; HEADER];
        for group in &groups {
            words.push(group_descriptor(*group)? as u32);
        }
        words[0] = size_of_val(words.as_slice()) as u32;
        words[2] = groups.len() as u32;
        // SAFETY: the words are a `struct vfio_pci_hot_reset` with as many descriptors behind it as
        // it says; the kernel only reads them.
        let ret = unsafe { ioctl_with_ptr(device, VFIO_DEVICE_PCI_HOT_RESET(), words.as_ptr()) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// The descriptor of a group. A group opens but once, and vfio-ioctls, which has it open, keeps it to
/// itself; so it is looked for among all that this process has open.
fn group_descriptor(group: u32) -> io::Result<RawFd> {
    let node = format!("/dev/vfio/{group}");
    let is_it = |link: &Path| fs::read_link(link).is_ok_and(|to| to == Path::new(&node));
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|n| n.parse().ok());
        if let Some(number) = number.filter(|_| is_it(&entry.path())) {
            return Ok(number);
        }
    }
    Err(io::Error::other(format!("{node} is not open")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bdf(text: &str) -> Bdf {
        text.parse().unwrap()
    }

    #[test]
    fn functions_and_their_groups() {
        let words = [0, 0, 2, 7, 0x0801_0000, 9, 0xfb02_0001, 0, 0];
        let scope = Scope::parse(&words);
        let expected = vec![
            (bdf("0000:01:01.0"), Some(7)),
            (bdf("0001:02:1f.3"), Some(9)),
        ];
        assert_eq!(scope.functions, expected);
        // Device IDs are no groups.
        let words = [0, VFIO_PCI_HOT_RESET_FLAG_DEV_ID | 2, 1, 1, 0x0001_0000];
        assert_eq!(
            Scope::parse(&words).functions,
            [(bdf("0000:01:00.0"), None)]
        );
        // A count that is not there.
        assert_eq!(Scope::parse(&[0, 0, 9, 7]).functions, []);
    }

    #[test]
    fn a_group_that_is_not_open() {
        assert!(group_descriptor(u32::MAX).is_err());
    }
}
