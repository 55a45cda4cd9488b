//! Facts about the host's IOMMU from the kernel.
//!
//! | fact | where |
//! | --- | --- |
//! | units in use | `/sys/class/iommu` (Documentation/ABI/testing/sysfs-class-iommu) |
//! | groups | `/sys/kernel/iommu_groups` (Documentation/ABI/testing/sysfs-kernel-iommu_groups) |
//! | the firmware's tables | `/sys/firmware/acpi/tables`: DMAR for Intel, IVRS for AMD |
//! | parameters that turn it off | `/proc/cmdline` (admin-guide/kernel-parameters.txt) |
//! | VFIO's no-IOMMU mode | the parameter `enable_unsafe_noiommu_mode` of the module vfio |
//! | interrupt remapping | `/proc/interrupts`: names of remapped controllers begin with `IR-` |
//!
//! [`vmm::hostinfo::iova`] has the I/O addresses that an IOMMU can map.

use std::path::Path;
use std::{fs, io};

use vmm::hostinfo::sysfs::Sysfs;

use crate::paths::HostPaths;

/// The IOMMU of the host as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Iommu {
    /// Units that the kernel uses: `dmar0`, `ivhd1`.
    pub units: Vec<String>,
    /// How many groups there are.
    pub groups: usize,
    /// The firmware's tables that describe an IOMMU.
    pub tables: Vec<&'static str>,
    /// The kernel's parameters that turn an IOMMU off: `iommu=off`, `amd_iommu=off`.
    pub off: Vec<String>,
    /// Whether VFIO accepts devices without an IOMMU: `enable_unsafe_noiommu_mode`.
    pub no_iommu_mode: bool,
    /// Whether interrupts are remapped.
    pub remapping: bool,
    /// Whether containers accept devices without interrupt remapping: `allow_unsafe_interrupts`.
    pub container_unsafe: bool,
    /// Whether iommufd accepts devices without interrupt remapping.
    pub iommufd_unsafe: bool,
}

impl Iommu {
    /// Reads the facts. A fact that the kernel does not show is absent.
    pub fn read(sysfs: &Sysfs, paths: &HostPaths) -> Self {
        let mut units = names(&sysfs.path("class/iommu"));
        units.sort();
        let tables = names(&sysfs.path("firmware/acpi/tables"));
        let interrupts = fs::read_to_string(paths.proc.join("interrupts")).unwrap_or_default();
        let cmdline = fs::read_to_string(paths.proc.join("cmdline")).unwrap_or_default();
        let set = |module: &str, name: &str| {
            let file = format!("module/{module}/parameters/{name}");
            fs::read_to_string(sysfs.path(&file)).is_ok_and(|text| text.trim() == "Y")
        };
        let allowed = |module| set(module, "allow_unsafe_interrupts");
        Self {
            units,
            groups: names(&sysfs.path("kernel/iommu_groups")).len(),
            tables: ["DMAR", "IVRS"]
                .into_iter()
                .filter(|table| tables.iter().any(|t| t == table))
                .collect(),
            off: turned_off(&cmdline),
            no_iommu_mode: set("vfio", "enable_unsafe_noiommu_mode"),
            remapping: remapped(&interrupts),
            container_unsafe: allowed("vfio_iommu_type1"),
            iommufd_unsafe: allowed("iommufd"),
        }
    }
}

/// The parameters of the kernel's command line that turn an IOMMU off. Each is a list of options
/// between commas.
fn turned_off(cmdline: &str) -> Vec<String> {
    let is_off = |word: &&str| {
        let Some((name, options)) = word.split_once('=') else {
            return false;
        };
        ["iommu", "amd_iommu", "intel_iommu"].contains(&name)
            && options.split(',').any(|option| option == "off")
    };
    cmdline
        .split_whitespace()
        .filter(is_off)
        .map(String::from)
        .collect()
}

/// Whether a controller in /proc/interrupts uses interrupt remapping: `IR-IO-APIC`,
/// `IR-PCI-MSIX-...`. The controller follows the interrupt's number and a count for each processor
/// (kernel/irq/proc.c, show_interrupts). The driver's own name is at the end of the line.
fn remapped(interrupts: &str) -> bool {
    let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    interrupts.lines().any(|line| {
        let Some((number, rest)) = line.split_once(':') else {
            return false;
        };
        let mut words = rest.split_whitespace().skip_while(is_number);
        is_number(&number.trim()) && words.next().is_some_and(|chip| chip.starts_with("IR-"))
    })
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    entries.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use pci::addr::Range;
    use vmm::hostinfo::iova::Reach;

    use super::*;
    use crate::tree::Tree;

    #[test]
    fn facts_of_an_iommu_in_use() {
        let tree = Tree::new();
        assert_eq!(Iommu::read(&tree.sysfs(), &tree.paths()), Iommu::default());
        tree.directory("sys/class/iommu/dmar1")
            .directory("sys/class/iommu/dmar0")
            .directory("sys/kernel/iommu_groups/0/devices")
            .directory("sys/kernel/iommu_groups/1/devices")
            .file("sys/firmware/acpi/tables/DMAR", "")
            .file("sys/firmware/acpi/tables/FACP", "")
            .file(
                "proc/cmdline",
                "quiet iommu=pt,off amd_iommu=off x_iommu=off iommu=pt\n",
            )
            .file(
                "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
                "Y\n",
            )
            .file("proc/interrupts", " CPU0\n 4: 7 IR-IO-APIC 4-edge ttyS0\n")
            .file(
                "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
                "Y\n",
            );
        let iommu = Iommu::read(&tree.sysfs(), &tree.paths());
        assert_eq!(iommu.units, ["dmar0", "dmar1"]);
        assert_eq!((iommu.groups, iommu.tables), (2, vec!["DMAR"]));
        assert_eq!(iommu.off, ["iommu=pt,off", "amd_iommu=off"]);
        assert!(iommu.no_iommu_mode);
        assert!(iommu.remapping && iommu.container_unsafe && !iommu.iommufd_unsafe);
        // The name of a device is no controller's.
        assert!(!remapped(
            " 4: 7 IO-APIC 4-edge ttyS0\n 24: 0 PCI-MSI 1-edge IR-receiver\nNMI: 0 IR-x\n"
        ));
        assert!(remapped(
            " 24: 0 12 IR-PCI-MSIX-0000:01:00.0 0-edge nvme0q0\n"
        ));
    }

    #[test]
    fn ranges_without_what_is_set_apart() {
        let tree = Tree::new();
        tree.device("0000:01:00.0", "0x020000", None, Some(3));
        let reach = Reach::read(&tree.sysfs(), &tree.find("0000:01:00.0"));
        assert_eq!(reach, Reach::default());
        assert_eq!(reach.ranges(), [Range::inclusive(0, u64::MAX).unwrap()]);

        let lines = "0x00000000bf800000 0x00000000bfffffff direct-relaxable\n\
            0x00000000fee00000 0x00000000feefffff msi\nnonsense\n\
            0x0000007ffff00000 0x0000008fffffffff reserved\n";
        tree.file("sys/kernel/iommu_groups/3/reserved_regions", lines);
        let home = Tree::home("0000:01:00.0");
        tree.file(&format!("{home}/iommu/intel-iommu/cap"), "2f0200\n");
        let reach = Reach::read(&tree.sysfs(), &tree.find("0000:01:00.0"));
        assert_eq!((reach.bits, reach.reserved.len()), (Some(39), 3));
        assert!(!reach.is_refused());
        let between = |a, b| Range::inclusive(a, b).unwrap();
        assert_eq!(
            reach.ranges(),
            [
                between(0, 0xfedf_ffff),
                between(0xfef0_0000, 0x7f_ffef_ffff)
            ]
        );

        let direct = "0x00000000000f0000 0x00000000000fffff direct\n";
        tree.file("sys/kernel/iommu_groups/3/reserved_regions", direct);
        let reach = Reach::read(&tree.sysfs(), &tree.find("0000:01:00.0"));
        assert!(reach.is_refused());
        assert_eq!(reach.ranges()[0], between(0, 0xe_ffff));
    }
}
