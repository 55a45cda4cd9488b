//! What the kernel alone costs: the system calls of a VMM's start, and nothing else.
//! Whatever a VMM takes longer than this is its own doing.
//!
//! ```text
//! floor boot MIB CPUS            a guest of lab::tiny, which writes one byte to standard output
//! floor map BDF MIB PAGES THREADS  RAM made, mapped for a device's DMA, and unmapped (in L1)
//! ```

mod boot;
mod dma;

use std::process::ExitCode;

use lab::error::Context;
use lab::{Error, Result};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["boot", mib, cpus] => number(mib)
            .and_then(|mib| Ok((mib, number(cpus)?)))
            .and_then(|(mib, cpus)| boot::run(mib, cpus as u64)),
        ["map", bdf, mib, pages, threads] => number(mib)
            .and_then(|mib| Ok((mib, number(threads)?)))
            .and_then(|(mib, threads)| dma::run(bdf, mib, pages, threads)),
        _ => Err(Error::failed(format!("no such job: {words:?}"))),
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
