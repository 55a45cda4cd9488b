//! Whether the guest's memory suits a device that is to be added, as far as sysfs tells.

use pci::Bdf;
use pci::addr::Range;

use crate::hostinfo::coherency;
use crate::hostinfo::iova::Reach;
use crate::hostinfo::pci_device::PciDevice;
use crate::hostinfo::sysfs::Sysfs;
use crate::plug::error::AddError;

/// Checks that the device's IOMMU reaches all RAM.
///
/// # Errors
/// The first range of RAM that the IOMMU does not reach whole.
pub(crate) fn check_reach(
    sysfs: &Sysfs,
    device: &PciDevice,
    mut ram: impl Iterator<Item = Range>,
) -> Result<(), AddError> {
    let ranges = Reach::read(sysfs, device).ranges();
    let inside = |ram: &Range| ranges.iter().any(|r| r.contains(ram.start, ram.size));
    match ram.find(|ram| !inside(ram)) {
        Some(ram) => Err(AddError::OutOfReach {
            device: device.bdf.to_string(),
            start: ram.start,
            last: ram.end() - 1,
        }),
        None => Ok(()),
    }
}

/// Checks that KVM's memory types are right with the device: this device's DMA is coherent, or that
/// of a device in the guest (`present`) is not, so that KVM follows the guest's types already.
///
/// # Errors
/// KVM would keep memory types that are wrong with the device.
pub(crate) fn check_memory_types(
    sysfs: &Sysfs,
    device: &PciDevice,
    present: &[String],
) -> Result<(), AddError> {
    let keeps = |bdf| coherency::keeps_old_types(sysfs, &sysfs.device_path(bdf));
    let mut others = present.iter().filter_map(|name| name.parse::<Bdf>().ok());
    match keeps(device.bdf) {
        Some(release) if !others.any(|bdf| keeps(bdf).is_some()) => Err(AddError::OldMemoryTypes {
            device: device.bdf.to_string(),
            release,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    const GIB: u64 = 1 << 30;
    /// Capability registers of Intel's IOMMUs: addresses of 39 bits.
    const CAP: &str = "1c0000c40660462\n";
    const NO_SNOOP_CONTROL: &str = "f0101e\n";
    const SNOOP_CONTROL: &str = "f0109e\n";

    /// A sysfs with these devices, each in a group of its own behind an IOMMU with this extended
    /// capability register.
    fn host(release: &str, devices: &[(&str, &str)]) -> (TempDir, Sysfs) {
        let dir = TempDir::new().unwrap();
        let sysfs = Sysfs::at(dir.as_path().join("sys"));
        let file = sysfs.kernel_release();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, release).unwrap();
        for (number, (name, ecap)) in devices.iter().enumerate() {
            let device = sysfs.device_path(name.parse().unwrap());
            let iommu = device.join("iommu/intel-iommu");
            fs::create_dir_all(&iommu).unwrap();
            fs::write(iommu.join("ecap"), ecap).unwrap();
            fs::write(iommu.join("cap"), CAP).unwrap();
            for (file, text) in [
                ("vendor", "0x1234"),
                ("device", "0x11e8"),
                ("class", "0xff0000"),
            ] {
                fs::write(device.join(file), text).unwrap();
            }
            let group = sysfs.path(&format!("kernel/iommu_groups/{number}"));
            fs::create_dir_all(&group).unwrap();
            let regions = "0x00000000fee00000 0x00000000feefffff msi\n";
            fs::write(group.join("reserved_regions"), regions).unwrap();
            std::os::unix::fs::symlink(group, device.join("iommu_group")).unwrap();
        }
        (dir, sysfs)
    }

    fn device(sysfs: &Sysfs, name: &str) -> PciDevice {
        sysfs.device(name.parse().unwrap()).unwrap().unwrap()
    }

    const FIRST: &str = "0000:01:00.0";
    const SECOND: &str = "0000:02:00.0";

    #[test]
    fn ram_that_the_iommu_does_not_reach_is_named() {
        let (_dir, sysfs) = host("6.12.0", &[(FIRST, SNOOP_CONTROL)]);
        let device = device(&sysfs, FIRST);
        let check = |ram: &[(u64, u64)]| {
            let ram = ram.iter().map(|&(start, size)| Range { start, size });
            check_reach(&sysfs, &device, ram).map_err(|e| e.to_string())
        };
        assert_eq!(check(&[(0, 3 * GIB), (4 * GIB, 508 * GIB)]), Ok(()));
        let above = check(&[(0, 3 * GIB), (4 * GIB, 509 * GIB)]).unwrap_err();
        assert!(above.contains("0x100000000-0x803fffffff"), "{above}");
        // Over the range of interrupts.
        let across = check(&[(0, 4 * GIB)]).unwrap_err();
        assert!(across.contains("0x0-0xffffffff"), "{across}");
    }

    #[test]
    fn before_linux_6_7_the_first_device_must_have_coherent_dma() {
        for (release, first, present, refused) in [
            ("6.1.0", NO_SNOOP_CONTROL, &[][..], true),
            ("6.1.0", SNOOP_CONTROL, &[], false),
            ("6.7.0", NO_SNOOP_CONTROL, &[], false),
            // KVM follows the guest's types already.
            ("6.1.0", NO_SNOOP_CONTROL, &[SECOND], false),
        ] {
            let devices = [(FIRST, first), (SECOND, NO_SNOOP_CONTROL)];
            let (_dir, sysfs) = host(release, &devices);
            let present: Vec<_> = present.iter().map(|name| (*name).to_owned()).collect();
            let checked = check_memory_types(&sysfs, &device(&sysfs, FIRST), &present);
            let is_refused = matches!(checked, Err(AddError::OldMemoryTypes { .. }));
            assert_eq!(is_refused, refused, "{release} {first} {present:?}");
        }
        // A device whose DMA is coherent has changed nothing.
        let devices = [(FIRST, NO_SNOOP_CONTROL), (SECOND, SNOOP_CONTROL)];
        let (_dir, sysfs) = host("6.1.0", &devices);
        let present = [SECOND.to_owned()];
        let checked = check_memory_types(&sysfs, &device(&sysfs, FIRST), &present);
        assert!(matches!(checked, Err(AddError::OldMemoryTypes { .. })));
    }
}
