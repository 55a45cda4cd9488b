//! The lab: real PCI passthrough on a machine that has no IOMMU and no device to spare.
//! QEMU emulates such a machine, a Debian kernel runs in it, and mini-vmm runs on that.
//!
//! ```text
//!  L0  this host ── qemu-system-x86_64, plain emulation: no /dev/kvm, no root, no network needed
//!  │
//!  └─ L1  q35 with AMD SVM, an Intel IOMMU and devices: disks (image files of L0), a network card, …
//!     │   a kernel with its own kvm-amd, vfio-pci, and the container or iommufd
//!     │   /init is resources/l1-init.sh; it binds devices to vfio-pci and runs mini-vmm
//!     │
//!     └─ L2  mini-vmm's guest: the same kernel with its own drivers
//!            the device's registers mapped, its DMA through L1's IOMMU, its interrupts through irqfds
//!            /init is resources/l2-init.sh; it reads, writes and counts interrupts
//!            (resources/l2-functions.sh), then does what the scenario asks (resources/l2-acts.sh),
//!            with a program of its own for what shell cannot do (src/bin/guest)
//! ```
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`host`] | what L0 must have, and where things are kept |
//! | [`kernel`] | kernels from Debian's packages, and one built from its source; modules, the ELF inside |
//! | [`initramfs`] | the cpio archives that L1 and L2 boot from |
//! | [`disk`] | disks of several kinds with known content, and what a guest must have left in them |
//! | [`load`] | random reads and writes of a disk, whose content proves itself |
//! | [`machine`] | L1 as data, its QEMU command line, and running it with a time limit |
//! | [`nudge`] | waking a QEMU that stands still |
//! | [`random`] | content that looks random |
//! | [`transcript`] | what was said, by whom and when |
//! | [`scenario`] | one machine, one script, and what must be seen |
//! | [`expect`] | what a guest that works its disk must have said and left |
//! | [`failure`] | what a failed scenario shows |
//! | [`vmm`] | the static mini-vmm under test, and the guest's own program |
//! | [`progress`] | long steps, shown |

pub mod disk;
pub mod error;
pub mod expect;
pub mod failure;
pub mod host;
pub mod initramfs;
pub mod kernel;
pub mod load;
pub mod machine;
pub mod nudge;
pub mod progress;
pub mod random;
pub mod scenario;
pub mod transcript;
pub mod vmm;

pub use error::{Error, Result};
