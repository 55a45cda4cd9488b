//! What the kernel alone costs: the system calls of a VMM's start, and nothing else.
//! The difference between a VMM and this program is the VMM's own work.
//!
//! ```text
//! floor version                  which calls these are, for files of results to be compared
//! floor boot MIB CPUS [BDF ...]  a guest of bench::tiny, which writes one byte to standard output;
//!                                with devices (in L1) its RAM is filled and mapped for them before
//! floor boot-without-cpuid MIB CPUS
//!                                the same without CPUID, which no kernel could use
//! floor map type1|iommufd BDF MIB PAGES THREADS
//!                                RAM made, mapped for a device's DMA, and unmapped (in L1)
//! ```

mod boot;
mod dma;
mod iommu;
mod ram;

use std::process::ExitCode;

use bench::error::{Context, Error, Result};

/// To be counted up with every change of what is called.
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
