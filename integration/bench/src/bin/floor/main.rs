//! Measures the kernel's part of a VMM's start: this program makes the system calls of a start and
//! does nothing else. The difference between a VMM's time and this program's time is the VMM's own
//! work.
//!
//! ```text
//! floor version                  prints the version of this list of calls, for results files
//! floor boot MIB CPUS [BDF ...]  starts a guest of bench::tiny, which writes one byte to standard
//!                                output; with devices (in L1), fills the RAM and maps it first
//! floor boot-without-cpuid MIB CPUS
//!                                starts the guest without CPUID, which no real kernel could use
//! floor map type1|iommufd BDF MIB PAGES THREADS
//!                                makes RAM, maps it for a device's DMA, and unmaps it (in L1)
//! ```

mod boot;
mod dma;
mod iommu;
mod ram;

use std::process::ExitCode;

use bench::error::{Context, Error, Result};

/// Raise this version with each change of the system calls.
const VERSION: &str = "2, with CPUID set";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["version"] => {
            println!("{VERSION}");
            Ok(())
        }
        ["boot", mib, cpus, devices @ ..] => number(mib)
            .and_then(|mib| Ok((mib, number(cpus)?)))
            .and_then(|(mib, cpus)| boot::run(mib, cpus as u64, devices, true)),
        ["boot-without-cpuid", mib, cpus] => number(mib)
            .and_then(|mib| Ok((mib, number(cpus)?)))
            .and_then(|(mib, cpus)| boot::run(mib, cpus as u64, &[], false)),
        ["map", interface, bdf, mib, pages, threads] => number(mib)
            .and_then(|mib| Ok((mib, number(threads)?)))
            .and_then(|(mib, threads)| dma::run(interface, bdf, mib, pages, threads)),
        _ => Err(Error::new(format!("no such job: {words:?}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Result<usize> {
    word.parse().context(format!("read {word:?} as a number"))
}
