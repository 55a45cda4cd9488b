//! The static programs that the bench builds.

use std::fs::File;
use std::path::PathBuf;

use lab::progress::Step;
use lab::vmm;

use crate::error::{Context, Result};

/// Paths of the programs.
#[derive(Debug)]
pub struct Programs {
    /// mini-vmm.
    pub mini_vmm: PathBuf,
    /// The bare calls (src/bin/floor).
    pub floor: PathBuf,
    /// The program that runs in L1 and in its guests (src/bin/probe).
    pub probe: PathBuf,
}

/// Builds all programs.
pub fn build() -> Result<Programs> {
    let mini_vmm = vmm::build()?.vmm;
    let step = Step::start("building static programs: the bare calls, and the lab's probe");
    let floor = vmm::program("bench", "floor")?;
    let probe = vmm::program("bench", "probe")?;
    step.done();
    // Syncs the files. Otherwise the pages of a new file are dirty, and would count as written by
    // the process that maps the file.
    for program in [&mini_vmm, &floor, &probe] {
        let synced = File::open(program).and_then(|file| file.sync_all());
        synced.context(format!("write {} to its disk", program.display()))?;
    }
    Ok(Programs {
        mini_vmm,
        floor,
        probe,
    })
}
