//! Peer-to-peer DMA by dma-bufs: whatever makes the host revoke the export of a BAR, the BAR is not
//! mapped then, and is exported and mapped anew afterwards.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use ::pci::addr::Range;
use vmm::memory::dma::Dma;
use vmm::memory::dma_mapper::{DmaBufMapper, DmaMapper};

use crate::Test;
use crate::device::{BAR0, Call, EXPRESS, FakeDevice, PM};
use crate::pci::{COMMAND, MASTER, MEMORY};
use crate::rig::{AREAS, Rig};

pub const TESTS: &[Test] = tests![
    a_bar_is_mapped_anew_after_each_revocation,
    a_device_that_cannot_export_is_not_mapped,
];

/// BAR 4 as the rig puts it.
const BAR4: u64 = 0xc001_0000;
const DEVICE_CONTROL: u16 = EXPRESS + 8;

/// An IOMMU: the I/O addresses that are mapped.
#[derive(Default)]
struct Iommu(Mutex<Vec<u64>>);

impl Iommu {
    fn mapped(&self) -> Vec<u64> {
        let mut mapped = self.0.lock().unwrap().clone();
        mapped.sort_unstable();
        mapped
    }
}

impl DmaMapper for Iommu {
    fn map(&self, _: u64, _: u64, _: u64) -> io::Result<()> {
        panic!("a BAR is mapped by its address");
    }

    fn unmap(&self, iova: u64, _: u64) -> io::Result<()> {
        let mut mapped = self.0.lock().unwrap();
        let at = mapped.iter().position(|m| *m == iova).expect("a map");
        mapped.remove(at);
        Ok(())
    }

    fn iova_ranges(&self) -> &[Range] {
        &[]
    }

    fn by_iommufd(&self) -> bool {
        true
    }

    fn dma_bufs(&self) -> Option<&dyn DmaBufMapper> {
        Some(self)
    }
}

impl DmaBufMapper for Iommu {
    fn map(&self, iova: u64, _: u64, _: BorrowedFd<'_>) -> io::Result<()> {
        self.0.lock().unwrap().push(iova);
        Ok(())
    }
}

/// A device whose BARs peers reach through `iommu`. `device` hears of the IOMMU's maps.
fn rig(iommu: &Arc<Iommu>, device: FakeDevice) -> Rig {
    let rig = Rig::new(device, AREAS);
    let dma = Arc::new(Dma::new(iommu.clone(), 0, true, Arc::default()));
    rig.space.subscribe(dma.clone()).unwrap();
    dma.finish_ram();
    rig
}

fn a_bar_is_mapped_anew_after_each_revocation() {
    let iommu = Arc::new(Iommu::default());
    let during = Arc::new(Mutex::new(Vec::new()));
    let (maps, revoked) = (iommu.clone(), during.clone());
    let revokes = |call: &Call| match call {
        Call::Config(at, data) => match u16::try_from(*at).unwrap() {
            COMMAND => u32::from(data[0]) & MEMORY == 0,
            DEVICE_CONTROL => data[1] & 0x80 != 0,
            at => at == PM + 4 && data[0] & 3 != 0,
        },
        Call::Reset | Call::HotReset => true,
        _ => false,
    };
    let device = FakeDevice::new().with_exports().on_call(move |_, call| {
        if revokes(call) {
            revoked.lock().unwrap().push(maps.mapped());
        }
    });
    let rig = rig(&iommu, device);
    let both = [u64::from(BAR0), BAR4];
    rig.command(MEMORY | MASTER);
    assert_eq!(iommu.mapped(), both);
    let exports = || {
        let calls = rig.device.calls();
        calls
            .iter()
            .filter(|c| matches!(c, Call::Export(..)))
            .count()
    };
    // BAR 0 without the pages of its MSI-X table and pending bits.
    assert_eq!(rig.device.count(&Call::Export(0, 0, 0x2000)), 1);
    assert_eq!(rig.device.count(&Call::Export(4, 0, 0x1_0000)), 1);
    let revocations: [(&str, &dyn Fn()); 4] = [
        ("decoding off and on", &|| {
            rig.command(0);
            rig.command(MEMORY);
        }),
        ("D3 and D0", &|| {
            rig.write(PM + 4, &[3, 0]);
            assert!(iommu.mapped().is_empty());
            rig.write(PM + 4, &[0, 0]);
        }),
        ("a function-level reset", &|| {
            rig.write(DEVICE_CONTROL, &[0, 0x80]);
        }),
        ("a reboot", &|| {
            rig.reset();
            assert!(iommu.mapped().is_empty());
            rig.command(MEMORY);
        }),
    ];
    for (what, revoke) in revocations {
        during.lock().unwrap().clear();
        let before = exports();
        revoke();
        let seen = during.lock().unwrap().clone();
        assert!(
            !seen.is_empty() && seen.iter().all(Vec::is_empty),
            "{what}: {seen:x?}"
        );
        assert_eq!(iommu.mapped(), both, "{what}");
        assert_eq!(exports(), before + 2, "{what}");
    }
    rig.release();
    assert!(iommu.mapped().is_empty());
}

fn a_device_that_cannot_export_is_not_mapped() {
    let iommu = Arc::new(Iommu::default());
    let rig = rig(&iommu, FakeDevice::new());
    rig.command(MEMORY);
    assert_eq!(rig.slots.in_use(), AREAS);
    assert!(iommu.mapped().is_empty());
}
