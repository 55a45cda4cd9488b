//! The ways in which another VMM gives the disk to its guest.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Another VMM, and the way in which it gives the disk to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// QEMU, to which the device is assigned by vfio-pci
    QemuVfio,
    /// QEMU's emulated NVMe disk, whose data is the host's disk, read-only
    QemuNvme,
    /// QEMU's virtio-blk with a thread of its own, whose data is the host's disk, read-only
    QemuVirtio,
}

impl Peer {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::QemuVfio => "QEMU, vfio-pci",
            Self::QemuNvme => "QEMU, emulated NVMe",
            Self::QemuVirtio => "QEMU, virtio-blk",
        }
    }

    /// Whether the guest has the device itself, so that the host's driver must leave it.
    pub fn is_assigned(self) -> bool {
        self == Self::QemuVfio
    }

    /// What is not equal between this subject and a guest of mini-vmm.
    pub fn differs(self) -> &'static str {
        match self {
            Self::QemuVfio => {
                "the machine q35 with firmware, which has devices that mini-vmm lacks; virtual CPUs \
                 are put on their CPUs when the guest is ready; on AMD, the guest lacks KVM's \
                 IA32_ARCH_CAPABILITIES"
            }
            Self::QemuNvme => {
                "as for vfio-pci; each read also goes through QEMU's main thread and the host's \
                 own driver, whose interrupts may come on other CPUs"
            }
            Self::QemuVirtio => {
                "as for vfio-pci; each read also goes through a thread of QEMU and the host's own \
                 driver, whose interrupts may come on other CPUs; the guest's driver is virtio_blk"
            }
        }
    }

    /// What the guest's modules know the disk by; `None` if it is the host's device itself.
    pub fn modaliases(self) -> &'static [&'static str] {
        match self {
            Self::QemuVfio => &[],
            Self::QemuNvme => &["pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"],
            Self::QemuVirtio => &[
                "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00",
                "virtio:d00000002v00001AF4",
            ],
        }
    }
}
