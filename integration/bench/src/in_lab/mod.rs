//! Parts 2 to 6, measured in the lab. L1 is the machine that QEMU emulates, with an IOMMU and NVMe
//! disks; the documentation of the crate `lab` has a picture.
//!
//! | module | content |
//! | --- | --- |
//! | [`setup`] | the input of all parts |
//! | [`programs`] | building the static programs |
//! | [`l1`] | paths and commands in L1 |
//! | [`session`] | one L1, started for one part |
//! | [`facts`] | the lines that L1 printed, as data |
//! | [`filling`] | the number of threads that fill RAM |
//! | [`boots`] | part 2: guests up to their /init |
//! | [`reads`] | part 3: reads of an NVMe disk |
//! | [`maps`] | part 4: memory for DMA |
//! | [`growth`] | part 5: more devices, vCPUs and memory |
//! | [`device`] | part 6: a disk, by the program mini-vmm-bench |
//! | [`failure`] | errors of the crate `lab` |

pub mod boots;
pub mod device;
pub mod facts;
pub mod failure;
pub mod filling;
pub mod growth;
pub mod l1;
pub mod maps;
pub mod programs;
pub mod reads;
pub mod session;
pub mod setup;

pub use setup::Setup;

use crate::error::Result;
use crate::results::Results;

type Part = fn(&Setup<'_>, &mut Results) -> Result<()>;

const PARTS: [(u8, Part); 5] = [
    (2, boots::run),
    (3, reads::run),
    (4, maps::run),
    (5, growth::run),
    (6, device::run),
];

/// Measures all parts, and adds the figures to the results. If a part fails, the failure is
/// reported and the next part runs.
pub fn run(setup: &Setup<'_>, results: &mut Results) {
    for (part, run) in PARTS {
        if setup.plan.has(part)
            && let Err(error) = run(setup, results)
        {
            eprintln!("  part {part}: {error}");
            results
                .missing
                .push(format!("part {part} in the lab: {error}"));
        }
    }
}
