//! The lab tests real PCI passthrough on a host that has neither an IOMMU nor a free device. QEMU
//! emulates a machine that has both. A Debian kernel runs in the machine, and mini-vmm runs on that
//! kernel.
//!
//! ```text
//!  L0  this host ── qemu-system-x86_64, plain emulation: no /dev/kvm, no root, no network
//!  │
//!  └─ L1  q35 with AMD SVM, an Intel IOMMU and devices: disks (files of L0), a network card …
//!     │   a kernel with its own kvm-amd, vfio-pci, and the container or iommufd
//!     │   /init is integration/resources/l1-init.sh; the scenario's script runs in it, binds
//!     │   devices to vfio-pci and runs mini-vmm
//!     │
//!     └─ L2  mini-vmm's guest: the same kernel with its own drivers
//!            the device's registers are mapped, its DMA goes through L1's IOMMU, its interrupts
//!            come by irqfds
//!            /init is integration/resources/l2-init.sh: it reads, writes and counts interrupts
//!            (l2-functions.sh), then does the act that the scenario names (l2-acts.sh); a static
//!            program does what shell cannot (integration/src/bin/guest)
//! ```
//!
//! A new scenario is an entry in the list of a file in integration/tests/lab. [`scenario`] shows
//! what an entry needs. A new file also needs its name in `scenarios!` in
//! integration/tests/lab/main.rs.
//!
//! | module | content |
//! | --- | --- |
//! | [`scenario`] | a machine, a script, and the expected results |
//! | [`command`] | a start of mini-vmm, and the expected end of the run |
//! | [`expect`] | checks of a guest that works its disk, and of a disk that L1 got back |
//! | [`setup`] | QEMU, kernels and programs, which all scenarios share |
//! | [`suite`] | running scenarios as tests |
//! | [`runner`] | running a scenario in a machine |
//! | [`judge`] | whether a scenario passed, and whether the emulator failed |
//! | [`failure`] | the report of a failed scenario |
//! | [`outcome`] | the results of a finished machine |
//! | [`screens`] | two screens on how a device gets into a guest, from a trace |
//! | [`kept`] | files that L1 has left on a disk |
//! | [`transcript`] | the lines of L1's serial port, each with its writer and time |
//! | [`machine`] | the description of L1, its QEMU command line, and running QEMU with a time limit
//! |
//! | [`bochs`] | L1 with Intel's VMX, in Bochs |
//! | [`emulator`] | the process of an emulator |
//! | [`listen`] | reading L1's serial port |
//! | [`nudge`] | waking a QEMU that hangs |
//! | [`disk`] | disks of several kinds with known content, and the content that a guest must have
//! written |
//! | [`load`] | random reads and writes whose results can be predicted |
//! | [`random`] | pseudorandom numbers |
//! | [`initramfs`] | the cpio archives that L1 and L2 boot from |
//! | [`inner_qemu`] | QEMU as a program of L1 |
//! | [`scripts`] | the shell scripts of both machines, and the kernel's options |
//! | [`kernel`] | kernels from Debian's packages, and one built from source |
//! | [`debian`] | a disk image with Debian's root file system |
//! | [`lists`] | the package lists of apt that the lab uses |
//! | [`newer_qemu`] | a QEMU for guests with XSAVE |
//! | [`soak`] | guests under load for a time, and what must not be lost |
//! | [`vmm`] | building the static mini-vmm under test, and the guest's program |
//! | [`host`] | the programs that L0 needs, and the lab's directories |
//! | [`progress`] | showing the progress of long steps |

pub mod bochs;
pub mod command;
pub mod debian;
pub mod disk;
pub mod emulator;
pub mod error;
pub mod expect;
pub mod failure;
pub mod headers;
pub mod host;
pub mod initramfs;
pub mod inner_qemu;
pub mod judge;
pub mod kept;
pub mod kernel;
pub mod listen;
pub mod lists;
pub mod load;
pub mod machine;
pub mod newer_qemu;
pub mod nudge;
pub mod outcome;
pub mod progress;
pub mod random;
pub mod runner;
pub mod scenario;
pub mod screens;
pub mod scripts;
pub mod setup;
pub mod soak;
pub mod suite;
pub mod terminal;
pub mod tour;
pub mod transcript;
pub mod vmm;

pub use error::{Error, Result};
