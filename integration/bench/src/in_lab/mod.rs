//! Parts 2 to 5 in the lab: a machine that QEMU emulates, with an IOMMU and NVMe disks, called L1.
//! The crate `lab` has its picture.
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`setup`] | what all parts are given |
//! | [`programs`] | the static programs that are built for it |
//! | [`l1`] | what is where in L1, and what is typed there |
//! | [`session`] | one machine, switched on for one part |
//! | [`facts`] | what L1 said, as data |
//! | [`filling`] | by how many threads RAM is filled |
//! | [`boots`] | part 2: guests up to their /init |
//! | [`reads`] | part 3: reads of an NVMe disk |
//! | [`maps`] | part 4: memory for DMA |
//! | [`growth`] | part 5: more devices, vCPUs and memory |
//! | [`failure`] | errors of the crate `lab` |

pub mod boots;
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

const PARTS: [(u8, Part); 4] = [
    (2, boots::run),
    (3, reads::run),
    (4, maps::run),
    (5, growth::run),
];

/// Measures, and adds to the results. A part that fails is reported, and the others go on.
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
