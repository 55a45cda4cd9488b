//! A static program for the guest. L2's /init calls it for jobs that a shell script cannot do.
//!
//! ```text
//! guest load DISK PLAN WORKER...   runs these workers of a plan, which read and write the disk
//! guest verify DISK PLAN           checks that the disk has the content that the plan predicts
//! guest edu BDF                    drives QEMU's teaching device by VFIO without an IOMMU
//! guest vectors THREADS            keeps values in the AVX registers of several threads
//! ```
//!
//! The program prints facts as /init does, in lines of "L2: key value". The key "act-failed" fails
//! the scenario.

mod disk;
mod edu;
mod memory;
mod vectors;
mod vfio;

use std::process::ExitCode;

use lab::Error;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["load", disk, plan, workers @ ..] => disk::load(disk, plan, workers),
        ["verify", disk, plan] => disk::verify(disk, plan),
        ["edu", bdf] => edu::drive(bdf),
        ["vectors", threads] => vectors::keep(threads),
        _ => Err(Error::failed(format!("unknown arguments: {words:?}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("L2: act-failed {error}");
            ExitCode::FAILURE
        }
    }
}
