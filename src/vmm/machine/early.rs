//! Whether devices may be opened beside the guest, and what sysfs tells of them before they are
//! open: the windows for their BARs are made by that.

use std::fs;
use std::path::Path;

use pci::addr::Range;
use pci::bar::{BAR_COUNT, Bars};
use tracing::info;

use crate::hostinfo::sysfs::Sysfs;
use crate::hostinfo::{bars, iova};
use crate::layout::Layout;
use crate::machine::error::MachineError;
use crate::machine::ram_setup::RamSetup;
use crate::vfio::device::Device;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::opener::Opener;

/// What sysfs tells of devices that are not open yet.
pub(super) struct Early {
    /// In the order of the devices, without addresses and ROMs.
    pub bars: Vec<Bars>,
    /// The I/O addresses that all of the devices' IOMMUs can map.
    pub ranges: Vec<Range>,
}

impl Early {
    /// What is known of these devices, if they may be opened beside the guest. Otherwise they are
    /// opened before it runs, and the log tells why.
    pub fn of(
        candidates: &[Candidate],
        layout: &Layout,
        ram: &RamSetup,
        opener: &Opener,
    ) -> Option<Self> {
        if candidates.is_empty() {
            return None;
        }
        let early = match (opener.is_apart(), ram.starts_unmapped()) {
            (false, _) => Err("no other process makes the calls, so the run could not end".into()),
            (_, false) => Err("RAM is mapped for them first".into()),
            (true, true) => Self::find(&Sysfs::default(), candidates, layout),
        };
        early
            .map_err(|why| info!("the devices are opened before the guest runs: {why}"))
            .ok()
    }

    fn find(sysfs: &Sysfs, candidates: &[Candidate], layout: &Layout) -> Result<Self, String> {
        let mut known = Vec::new();
        let mut reaches = Vec::new();
        for candidate in candidates {
            let name = candidate.name();
            if !is_plain(candidate.dir()) {
                return Err(format!("{name} is not driven by vfio-pci itself"));
            }
            let reach = candidate.reach(sysfs);
            if !reach.surely_has(layout.ram()) {
                return Err(format!("sysfs does not tell that {name} reaches all RAM"));
            }
            reaches.push(reach);
            let bars = bars::read(candidate.dir());
            known.push(bars.ok_or_else(|| format!("sysfs does not tell the BARs of {name}"))?);
        }
        Ok(Self {
            bars: known,
            ranges: iova::common(&reaches),
        })
    }

    /// The sizes of the BARs of each device.
    pub fn sizes(&self) -> Vec<Vec<u64>> {
        self.bars.iter().map(|bars| sizes(bars).to_vec()).collect()
    }

    /// Checks that the devices, which are open now, have BARs of these sizes.
    ///
    /// # Errors
    /// A BAR has another size.
    pub fn check<'a>(
        &self,
        devices: impl IntoIterator<Item = &'a dyn Device>,
    ) -> Result<(), MachineError> {
        for (device, bars) in devices.into_iter().zip(&self.bars) {
            for (bar, early) in sizes(bars).into_iter().enumerate() {
                let size = device.region(bar as u32).size;
                if size != early {
                    return Err(MachineError::BarChanged {
                        device: device.name().into(),
                        bar,
                        early,
                        size,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Whether a device's driver is vfio-pci, and no variant of a vendor.
fn is_plain(dir: &Path) -> bool {
    let driver = fs::read_link(dir.join("driver"));
    driver.is_ok_and(|driver| driver.file_name() == Some("vfio-pci".as_ref()))
}

fn sizes(bars: &Bars) -> [u64; BAR_COUNT] {
    let mut sizes = [0; BAR_COUNT];
    for (index, bar, _) in bars.iter() {
        if let Some(size) = sizes.get_mut(index) {
            *size = bar.size;
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;
    use crate::vfio::function::test_device::TestDevice;
    use crate::vfio::open::find;

    const NAME: &str = "0000:01:00.0";
    const GIB: u64 = 1 << 30;
    const BARS: &str = "0x00000000f6000000 0x00000000f6003fff 0x0000000000140204\n";
    const RESERVED: &str = "0x00000000fee00000 0x00000000feefffff msi\n";
    /// Addresses of 39 bits (VT-d 4.1, 11.4.2).
    const CAP: &str = "1c0000c40660462\n";

    /// A host with a device. Each file that is not empty is there.
    fn host(driver: &str, bars: &str, reserved: &str, cap: &str) -> (TempDir, Sysfs) {
        let dir = TempDir::new().unwrap();
        let sysfs = Sysfs::at(dir.as_path());
        let device = sysfs.device_path(NAME.parse().unwrap());
        fs::create_dir_all(device.join("iommu/intel-iommu")).unwrap();
        fs::create_dir_all(device.join("vfio-dev/vfio0")).unwrap();
        symlink(format!("drivers/{driver}"), device.join("driver")).unwrap();
        symlink("groups/3", device.join("iommu_group")).unwrap();
        let group = sysfs.path("kernel/iommu_groups/3");
        fs::create_dir_all(group.join("devices")).unwrap();
        symlink(&device, group.join("devices").join(NAME)).unwrap();
        let files = [
            (device.join("resource"), bars),
            (group.join("reserved_regions"), reserved),
            (device.join("iommu/intel-iommu/cap"), cap),
        ];
        for (file, text) in files.iter().filter(|(_, text)| !text.is_empty()) {
            fs::write(file, text).unwrap();
        }
        (dir, sysfs)
    }

    fn early((_dir, sysfs): (TempDir, Sysfs), ram: u64) -> Result<Early, String> {
        let candidates = find(&sysfs, &[NAME.parse().unwrap()]).unwrap();
        Early::find(&sysfs, &candidates, &Layout::new(ram, 0, 46).unwrap())
    }

    #[test]
    fn what_sysfs_does_not_surely_tell_is_opened_before() {
        let known = early(host("vfio-pci", BARS, RESERVED, CAP), 8 * GIB).ok();
        let known = known.unwrap();
        assert_eq!(known.sizes(), [[0x4000, 0, 0, 0, 0, 0]]);
        assert_eq!(known.ranges.last().unwrap().end(), 1 << 39);
        for (host, ram, why) in [
            (
                host("mlx5_vfio_pci", BARS, RESERVED, CAP),
                8,
                "vfio-pci itself",
            ),
            (
                host("vfio-pci", "nonsense", RESERVED, CAP),
                8,
                "the BARs of",
            ),
            (host("vfio-pci", BARS, "", CAP), 8, "reaches all RAM"),
            // AMD's IOMMUs do not show their width.
            (host("vfio-pci", BARS, RESERVED, ""), 8, "reaches all RAM"),
            (
                host("vfio-pci", BARS, RESERVED, CAP),
                600,
                "reaches all RAM",
            ),
            (
                host("vfio-pci", BARS, "0x1000 0x1fff direct\n", CAP),
                8,
                "reaches all RAM",
            ),
        ] {
            let told = early(host, ram * GIB).err().unwrap();
            assert!(told.contains(why) && told.contains(NAME), "{told}");
        }
    }

    #[test]
    fn another_size_ends_the_run() {
        let known = early(host("vfio-pci", BARS, RESERVED, CAP), GIB)
            .ok()
            .unwrap();
        let device = TestDevice::new().with_region(0, 0x4000, &[]);
        assert!(known.check([&device as &dyn Device]).is_ok());
        let device = device.with_region(0, 0x8000, &[]);
        let e = known.check([&device as &dyn Device]).unwrap_err();
        assert!(e.to_string().contains("BAR 0 has 0x8000 bytes"), "{e}");
        assert!(e.hint().unwrap().contains("start the guest again"));
    }
}
