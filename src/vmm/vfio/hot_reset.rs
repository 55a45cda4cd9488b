//! The reset of a whole slot or bus, for functions that cannot be reset alone
//! (`include/uapi/linux/vfio.h`, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and VFIO_DEVICE_PCI_HOT_RESET).
//!
//! The kernel does such a reset only for a process that owns every affected function. With groups
//! the process proves this by a descriptor of each group. With iommufd the kernel knows the owner.

use std::fs::File;
use std::io;
use std::sync::Arc;

use pci::Bdf;
use vfio_bindings::bindings::vfio::VFIO_PCI_HOT_RESET_FLAG_DEV_ID;

use crate::vfio::uapi;

/// `struct vfio_pci_hot_reset_info` and `struct vfio_pci_hot_reset` begin alike: argsz, flags and
/// count.
const HEADER: usize = 3;
/// `struct vfio_pci_dependent_device`: a group or device ID, then segment, bus and devfn.
const ENTRY: usize = 2;
/// The number of functions that the first call has room for: all of a bus.
const USUAL: usize = 256;
/// A limit that no slot or bus of any machine reaches.
const MOST: usize = 1 << 16;

/// The functions that a hot reset would reset.
#[derive(Debug, PartialEq, Eq)]
pub struct Scope {
    /// Each function; with its group, unless the device was opened by iommufd.
    functions: Vec<(Bdf, Option<u32>)>,
}

impl Scope {
    /// Asks the kernel which functions a hot reset of `device` would reset.
    ///
    /// # Errors
    /// ENODEV where neither slot nor bus can be reset, ENOTTY for a device that is not on PCI.
    pub fn of(device: &File) -> io::Result<Self> {
        let mut entries = USUAL;
        loop {
            let mut words = vec![0u32; HEADER + entries * ENTRY];
            let Err(error) = uapi::hot_reset_info(device, &mut words) else {
                return Ok(Self::parse(&words));
            };
            let count = words.get(2).map_or(0, |count| *count as usize);
            if error.raw_os_error() != Some(libc::ENOSPC) || count <= entries || count > MOST {
                return Err(error);
            }
            entries = count;
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
            let [id, address] = *entry else {
                return None;
            };
            let [low, high, bus, devfn] = address.to_le_bytes();
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

    /// The files of all groups of the functions, for VFIO_DEVICE_PCI_HOT_RESET. `group_file` finds
    /// the open file of a group by its number.
    ///
    /// # Errors
    /// A group is not open.
    pub fn group_files(
        &self,
        group_file: impl Fn(u32) -> Option<Arc<File>>,
    ) -> io::Result<Vec<Arc<File>>> {
        let mut groups: Vec<u32> = self.functions.iter().filter_map(|(_, g)| *g).collect();
        groups.sort_unstable();
        groups.dedup();
        let find = |group: &u32| {
            let not_open = || io::Error::other(format!("IOMMU group {group} is not open"));
            group_file(*group).ok_or_else(not_open)
        };
        groups.iter().map(find).collect()
    }
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
        let scope = Scope::parse(&[0, 0, 2, 7, 0x0801_0000, 9, 0xfb02_0001]);
        let open = |group| (group == 7).then(|| Arc::new(File::open("/dev/null").unwrap()));
        let error = scope.group_files(open).unwrap_err();
        assert_eq!(error.to_string(), "IOMMU group 9 is not open");
        let open = |_| Some(Arc::new(File::open("/dev/null").unwrap()));
        assert_eq!(scope.group_files(open).unwrap().len(), 2);
    }
}
