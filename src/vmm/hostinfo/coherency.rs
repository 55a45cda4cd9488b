//! Whether memory types of a running guest are still right when it gets its first device.
//!
//! While no device is there whose DMA may pass by the processor's caches, KVM maps all RAM as
//! write-back on Intel's processors, whatever the guest's tables say. When such a device comes,
//! KVM follows the guest's memory types from then on, but before Linux 6.7 it keeps the maps of the
//! pages that were touched (arch/x86/kvm/mmu/mmu.c, `kvm_zap_gfn_range` at the change of
//! non-coherent DMA). An IOMMU that makes the DMA coherent leaves nothing to follow (VT-d 4.1,
//! 11.4.3, Snoop Control). AMD's IOMMU does always, and KVM takes the guest's types on AMD.

use std::fs;
use std::path::Path;

use crate::hostinfo::sysfs::Sysfs;

/// Snoop Control in Intel's extended capability register.
const SNOOP_CONTROL: u64 = 1 << 7;

/// The release of the running kernel, if it keeps memory types that are not right with the device
/// in the directory `dir`.
pub fn keeps_old_types(sysfs: &Sysfs, dir: &Path) -> Option<String> {
    let ecap = fs::read_to_string(dir.join("iommu/intel-iommu/ecap")).ok()?;
    let release = fs::read_to_string(sysfs.kernel_release()).ok()?;
    let release = release.trim();
    (!is_coherent(&ecap) && is_before_6_7(release)).then(|| release.to_owned())
}

fn is_coherent(ecap: &str) -> bool {
    let value = u64::from_str_radix(ecap.trim(), 16);
    value.is_ok_and(|ecap| ecap & SNOOP_CONTROL != 0)
}

fn is_before_6_7(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) => (major, minor) < (6, 7),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn only_an_iommu_that_does_not_snoop_and_an_old_kernel() {
        let dir = TempDir::new().unwrap();
        let device = dir.as_path().join("device");
        let iommu = device.join("iommu/intel-iommu");
        fs::create_dir_all(&iommu).unwrap();
        let sysfs = Sysfs::at(dir.as_path().join("sys"));
        let release = sysfs.kernel_release();
        fs::create_dir_all(release.parent().unwrap()).unwrap();
        let told = |ecap: &str, text: &str| {
            fs::write(iommu.join("ecap"), ecap).unwrap();
            fs::write(&release, text).unwrap();
            keeps_old_types(&sysfs, &device)
        };
        assert_eq!(
            told("f0101e\n", "6.6.9-amd64\n"),
            Some("6.6.9-amd64".into())
        );
        assert_eq!(told("f0101e\n", "5.10.0\n"), Some("5.10.0".into()));
        for (ecap, release) in [
            ("f010da", "6.6.9"),
            ("f0101e", "6.7.0"),
            ("f0101e", "6.12.5-1"),
            ("f0101e", "7.0-rc1"),
        ] {
            assert_eq!(told(ecap, release), None, "{ecap} {release}");
        }
        // AMD's IOMMU has no such file.
        fs::remove_file(iommu.join("ecap")).unwrap();
        assert_eq!(keeps_old_types(&sysfs, &device), None);
    }
}
