//! What is measured: the host's own driver, guests of mini-vmm, and guests of other VMMs.
//!
//! | file | content |
//! | --- | --- |
//! | `program` | a mini-vmm: its path, version and hash |
//! | `list` | the subjects of a run |
//! | `trial` | what a turn gives |
//! | `counts` | exits, wake-ups and CPU time of reads |
//! | `counting` | reading them, in a pass of its own |
//! | `cycles` | the processor's cycles in the guest and in the host |
//! | `totals` | KVM's exits in the timed turns |
//! | `monitor` | KVM's counters by QEMU's monitor |
//! | `host` | a turn of the host's own driver |
//! | `child` | a VMM as a child process, which never outlives this one |
//! | `mini_vmm` | a turn of a guest of mini-vmm |
//! | `peer` | the ways in which another VMM gives the disk or the port to its guest |
//! | `line` | the command lines of other VMMs |
//! | `memory` | the options of `--memory` in the words of other VMMs |
//! | `held` | what another VMM has in its turn |
//! | `other` | a turn of a guest of another VMM |
//! | `bound` | the device bound to vfio-pci by `mini-vmm host bind` |
//! | `boot` | what a VMM is started for |
//! | `life` | a guest's start, its function's reset, and its reboot |
//! | `watch` | who else hears a guest's messages |
//! | `tracing`, `chains` | a device's interrupts, in a traced pass of its own |
//! | `affinity` | the CPUs of a VMM's threads |
//! | `workers` | the threads that work for a VMM, the kernel's among them |

mod affinity;
mod boot;
mod bound;
pub mod chains;
mod child;
pub mod counting;
pub mod counts;
mod cycles;
mod held;
pub mod host;
pub mod life;
mod line;
pub mod list;
pub mod memory;
pub mod mini_vmm;
mod monitor;
pub mod other;
pub mod peer;
pub mod program;
pub mod totals;
mod tracing;
pub mod trial;
mod watch;
mod workers;
