//! Further facts about a PCI device from sysfs (Documentation/ABI/testing/sysfs-bus-pci). A fact
//! that the kernel does not show is absent and is no error.

use std::fs;
use std::path::Path;

use pci::Bdf;
use pci::addr::Range;
use serde::Serialize;
use vmm::hostinfo::pci_device::PciDevice;

use crate::limited;

/// Flags of a resource (include/linux/ioport.h).
const IORESOURCE_IO: u64 = 0x100;
const IORESOURCE_MEM: u64 = 0x200;
const IORESOURCE_PREFETCH: u64 = 0x2000;
const IORESOURCE_MEM_64: u64 = 0x10_0000;
const IORESOURCE_UNSET: u64 = 0x2000_0000;

/// The first BAR's register, and its bits (PCI Local Bus 3.0, 6.2.5.1).
const BAR_0: usize = 0x10;
const BAR_IS_IO: u32 = 1;
const BAR_TYPE: u32 = 0x6;
const BAR_TYPE_64: u32 = 0x4;
const BAR_PREFETCHABLE: u32 = 0x8;

/// The number of lines for BARs in the file `resource`. The line of the expansion ROM follows.
const BARS: usize = 6;

/// The address space that a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere.
    Memory64,
}

/// A BAR of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostBar {
    /// The BAR's index, 0 to 5.
    pub index: usize,
    /// The address space that it decodes.
    pub space: Space,
    /// Whether the BAR is prefetchable: its reads have no side effects.
    pub prefetchable: bool,
    /// The BAR's size in bytes.
    pub size: u64,
}

/// A BAR that the host has given no address: the firmware's windows, or those of the kernel, were
/// too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unassigned {
    /// The BAR's index, 0 to 5.
    pub index: usize,
    /// The address space that it decodes.
    pub space: Space,
    /// The size in bytes; `None` if the kernel has given the BAR up (drivers/pci/setup-bus.c,
    /// reset_resource), so that only the device's register shows it.
    pub size: Option<u64>,
}

/// The number of virtual functions of a physical function (Documentation/PCI/pci-iov-howto.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualFunctions {
    /// How many the device can have.
    pub total: u32,
    /// How many exist.
    pub enabled: u32,
}

/// The facts of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Vendor ID and device ID.
    pub id: (u16, u16),
    /// Subsystem vendor ID and subsystem ID.
    pub subsystem: (u16, u16),
    /// The reset methods, the best first: `flr`, `bus`, `pm`, ... Linux before 5.15 only shows
    /// whether the device can be reset; the method is `unnamed` then.
    pub reset_methods: Vec<String>,
    /// The device's BARs.
    pub bars: Vec<HostBar>,
    /// The BARs without an address.
    pub unassigned: Vec<Unassigned>,
    /// The index and range of each memory BAR that has an address.
    pub bar_ranges: Vec<(usize, Range)>,
    /// Bytes of the expansion ROM, if the device has an expansion ROM.
    pub rom: Option<u64>,
    /// The NUMA node, if the firmware names a node.
    pub numa_node: Option<u32>,
    /// The virtual functions, if the device supports them.
    pub virtual_functions: Option<VirtualFunctions>,
    /// The physical function, if the device is a virtual function.
    pub physical_function: Option<Bdf>,
    /// The power state: D0, D1, D2, D3hot, D3cold, unknown or error.
    pub power_state: Option<String>,
    /// Whether the device answers reads of its configuration space. A virtual function is not
    /// checked: its IDs read as all ones (PCI Express 6.0, 9.3.4.1.1).
    pub answers: bool,
}

impl Details {
    /// Reads a device's facts. `busy`: a call of the kernel goes on for the device. Then the device
    /// is not asked for its registers, because the reader would wait for the call.
    pub fn read(device: &PciDevice, busy: bool) -> Self {
        let dir = Dir(&device.path);
        let resource = dir.text("resource").unwrap_or_default();
        let (bars, rom) = resources(&resource);
        let physical_function = dir.link("physfn");
        let limited = |name: &str| match busy {
            true => None,
            false => limited::read(&device.path.join(name)).ok(),
        };
        let config: Option<[u8; 64]> =
            limited("config").and_then(|bytes| bytes.get(..64)?.try_into().ok());
        // A virtual function's own registers are zero (PCI Express 6.0, 9.3.4.1.11).
        let registers = config.filter(|_| physical_function.is_none());
        Self {
            id: (dir.hex("vendor"), dir.hex("device")),
            subsystem: (dir.hex("subsystem_vendor"), dir.hex("subsystem_device")),
            reset_methods: reset_methods(&dir),
            bars,
            unassigned: unassigned(&resource, registers),
            bar_ranges: assigned(&resource),
            rom,
            // The firmware names no node if the number is -1.
            numa_node: dir.number("numa_node"),
            virtual_functions: dir.number("sriov_totalvfs").filter(|&total| total > 0).map(
                |total| VirtualFunctions {
                    total,
                    // Read under the device's lock (drivers/pci/iov.c).
                    enabled: limited("sriov_numvfs")
                        .and_then(|bytes| str::from_utf8(&bytes).ok()?.trim().parse().ok())
                        .unwrap_or(0),
                },
            ),
            answers: physical_function.is_some() || config.is_none_or(|bytes| answers(&bytes)),
            physical_function,
            power_state: dir.text("power_state"),
        }
    }
}

/// A device's directory.
struct Dir<'a>(&'a Path);

impl Dir<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.0.join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.text(name)?.parse().ok()
    }

    /// An ID; 0 if the attribute is missing.
    fn hex(&self, name: &str) -> u16 {
        let text = self.text(name).unwrap_or_default();
        u16::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
    }

    fn link(&self, name: &str) -> Option<Bdf> {
        let target = fs::read_link(self.0.join(name)).ok()?;
        target.file_name()?.to_str()?.parse().ok()
    }
}

fn reset_methods(dir: &Dir<'_>) -> Vec<String> {
    match dir.text("reset_method") {
        Some(text) => text.split_whitespace().map(String::from).collect(),
        None if dir.0.join("reset").exists() => vec!["unnamed".into()],
        None => Vec::new(),
    }
}

/// Parses the file `resource`: the first address, the last address and the flags on each line, in
/// hexadecimal. A missing resource has zeroes.
fn resources(text: &str) -> (Vec<HostBar>, Option<u64>) {
    let parsed = text.lines().map(|line| {
        let mut words = line.split_whitespace();
        let mut next = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (start, last, flags) = (next()?, next()?, next()?);
        let size = last.checked_sub(start)?.checked_add(1)?;
        (flags & (IORESOURCE_IO | IORESOURCE_MEM) != 0).then_some((size, flags))
    });
    let all: Vec<_> = parsed.take(BARS + 1).collect();
    let bars = all.iter().take(BARS).enumerate();
    let bars = bars.filter_map(|(index, resource)| {
        let (size, flags) = (*resource)?;
        Some(HostBar {
            index,
            space: space(flags),
            prefetchable: flags & IORESOURCE_PREFETCH != 0,
            size,
        })
    });
    let rom = all.get(BARS).copied().flatten().map(|(size, _)| size);
    (bars.collect(), rom)
}

/// A line of the file `resource`: the first address, the last address and the flags.
fn lines(text: &str) -> impl Iterator<Item = (usize, u64, u64, u64)> + '_ {
    let parsed = text.lines().take(BARS).enumerate().map(|(index, line)| {
        let mut words = line.split_whitespace();
        let mut next = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        Some((index, next()?, next()?, next()?))
    });
    parsed.flatten()
}

/// The memory BARs that have an address.
fn assigned(text: &str) -> Vec<(usize, Range)> {
    let memory = lines(text)
        .filter(|(.., flags)| flags & IORESOURCE_MEM != 0 && flags & IORESOURCE_UNSET == 0);
    memory
        .filter_map(|(index, first, last, _)| Some((index, Range::inclusive(first, last)?)))
        .collect()
}

/// The BARs without an address: those that the kernel marks, and those that the device has
/// (`registers`), but the kernel has given up.
fn unassigned(text: &str, registers: Option<[u8; 64]>) -> Vec<Unassigned> {
    let given_up = registers.map_or(Vec::new(), |bytes| existing(&bytes));
    let mut found = Vec::new();
    for (index, first, last, flags) in lines(text) {
        let marked = flags & IORESOURCE_UNSET != 0;
        if marked {
            found.push(Unassigned {
                index,
                space: space(flags),
                size: last.checked_sub(first).map(|size| size.saturating_add(1)),
            });
        } else if (first, last, flags) == (0, 0, 0)
            && let Some((_, space)) = given_up.iter().find(|(at, _)| *at == index)
        {
            found.push(Unassigned {
                index,
                space: *space,
                size: None,
            });
        }
    }
    found
}

/// The BARs that the registers show: a BAR without an address still has its type. A 32-bit BAR that
/// is not prefetchable looks as if it did not exist.
fn existing(config: &[u8; 64]) -> Vec<(usize, Space)> {
    let mut found = Vec::new();
    let mut high_half = false;
    for index in 0..BARS {
        let at = BAR_0 + 4 * index;
        let bytes = config
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        let register = bytes.map_or(0, u32::from_le_bytes);
        if std::mem::take(&mut high_half) || config.starts_with(&[0xff, 0xff]) {
            continue;
        }
        if register & BAR_IS_IO != 0 {
            found.push((index, Space::Io));
        } else if register & BAR_TYPE == BAR_TYPE_64 {
            high_half = true;
            found.push((index, Space::Memory64));
        } else if register & BAR_PREFETCHABLE != 0 {
            found.push((index, Space::Memory32));
        }
    }
    found
}

/// The address space of a resource's flags.
fn space(flags: u64) -> Space {
    if flags & IORESOURCE_IO != 0 {
        Space::Io
    } else if flags & IORESOURCE_MEM_64 != 0 {
        Space::Memory64
    } else {
        Space::Memory32
    }
}

/// Whether the vendor ID that the device returns is valid. If the device no longer exists, all bits
/// are ones.
fn answers(config: &[u8; 64]) -> bool {
    !config.starts_with(&[0xff, 0xff])
}

/// A size as lspci prints it, in the largest unit that leaves a whole number: `16K`, `256M`.
pub fn size_text(size: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    units
        .iter()
        .find(|(shift, _)| size >= 1 << shift && size.is_multiple_of(1 << shift))
        .map_or_else(
            || size.to_string(),
            |(shift, unit)| format!("{}{unit}", size >> shift),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    const BDF: &str = "0000:01:00.0";

    const RESOURCE: &str = "\
0x00000000febd4000 0x00000000febd7fff 0x0000000000140204
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000001fff 0x0000000020042208
0x000000000000c000 0x000000000000c01f 0x0000000000040101
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000feb80000 0x00000000febbffff 0x0000000000046200
0x00000000febe0000 0x00000000febe7fff 0x0000000000140204
";

    #[test]
    fn everything_that_a_device_says() {
        let tree = Tree::new();
        tree.device(BDF, "0x010802", Some("nvme"), Some(1));
        let home = Tree::home(BDF);
        for (name, text) in [
            ("vendor", "0x1b36\n"),
            ("device", "0x0010\n"),
            ("subsystem_vendor", "0x1af4\n"),
            ("subsystem_device", "0x1100\n"),
            ("reset_method", "flr bus\n"),
            ("resource", RESOURCE),
            ("numa_node", "1\n"),
            ("sriov_totalvfs", "4\n"),
            ("sriov_numvfs", "2\n"),
            ("power_state", "D0\n"),
        ] {
            tree.file(&format!("{home}/{name}"), text);
        }
        let details = Details::read(&tree.find(BDF), false);
        let bar = |index, space, prefetchable, size| HostBar {
            index,
            space,
            prefetchable,
            size,
        };
        assert_eq!(
            details,
            Details {
                id: (0x1b36, 0x10),
                subsystem: (0x1af4, 0x1100),
                reset_methods: vec!["flr".into(), "bus".into()],
                bars: vec![
                    bar(0, Space::Memory64, false, 0x4000),
                    bar(2, Space::Memory32, true, 0x2000),
                    bar(3, Space::Io, false, 0x20),
                ],
                // BAR 2 has the flag IORESOURCE_UNSET.
                unassigned: vec![Unassigned {
                    index: 2,
                    space: Space::Memory32,
                    size: Some(0x2000),
                }],
                bar_ranges: vec![(0, Range::inclusive(0xfebd_4000, 0xfebd_7fff).unwrap())],
                rom: Some(0x4_0000),
                numa_node: Some(1),
                virtual_functions: Some(VirtualFunctions {
                    total: 4,
                    enabled: 2
                }),
                physical_function: None,
                power_state: Some("D0".into()),
                answers: true,
            }
        );
    }

    #[test]
    fn a_device_that_says_little() {
        let tree = Tree::new();
        tree.device(BDF, "0x020000", None, None);
        let home = Tree::home(BDF);
        tree.file(&format!("{home}/numa_node"), "-1\n");
        let bare = Details::read(&tree.find(BDF), false);
        assert_eq!(
            bare,
            Details {
                answers: true,
                ..Details::default()
            }
        );

        tree.file(&format!("{home}/reset"), "");
        std::fs::write(tree.path(&format!("{home}/config")), [0xff; 64]).unwrap();
        let gone = Details::read(&tree.find(BDF), false);
        assert_eq!(gone.reset_methods, ["unnamed"]);
        assert!(!gone.answers);

        // A virtual function's own IDs are all ones.
        tree.link(&format!("{home}/physfn"), &Tree::home("0000:02:00.0"));
        let details = Details::read(&tree.find(BDF), false);
        assert_eq!(details.physical_function, "02:00.0".parse().ok());
        assert!(details.answers);
    }

    #[test]
    fn bars_that_the_kernel_has_given_up() {
        let mut config = [0; 64];
        // BAR 0 is 64-bit and prefetchable, BAR 2 does not exist or is 32-bit, BAR 3 has ports,
        // BAR 4 is 32-bit and prefetchable.
        for (index, low) in [(0, 0xc), (3, 0x1), (4, 0x8)] {
            config[BAR_0 + 4 * index] = low;
        }
        let zero = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        let found = unassigned(&zero.repeat(6), Some(config));
        let bar = |index, space| Unassigned {
            index,
            space,
            size: None,
        };
        assert_eq!(
            found,
            [
                bar(0, Space::Memory64),
                bar(3, Space::Io),
                bar(4, Space::Memory32)
            ]
        );
        // A virtual function's registers say nothing, and a lost device's are all ones.
        assert!(unassigned(&zero.repeat(6), None).is_empty());
        assert!(unassigned(&zero.repeat(6), Some([0xff; 64])).is_empty());
        // A BAR with an address, and one of size zero with flags.
        let given = "0x0000000080000000 0x00000000800fffff 0x0000000000140204\n";
        assert!(unassigned(&given.repeat(6), Some(config)).is_empty());
    }

    #[test]
    fn lines_that_are_no_resources() {
        for text in [
            "",
            "x\n",
            "0x1 0x0 0x200\n",
            "0x0 0xffffffffffffffff 0x200\n",
            "1 2 3",
        ] {
            assert_eq!(resources(text), (Vec::new(), None), "{text}");
        }
    }

    #[test]
    fn sizes_in_whole_units() {
        for (size, text) in [
            (32, "32"),
            (16 << 10, "16K"),
            (1536, "1536"),
            (256 << 20, "256M"),
            (1 << 40, "1T"),
        ] {
            assert_eq!(size_text(size), text);
        }
    }
}
