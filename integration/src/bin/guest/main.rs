//! What shell cannot do in the guest: a small static program, which L2's /init calls.
//!
//! ```text
//! guest load DISK PLAN WORKER...   these workers of a plan read and write the disk
//! guest verify DISK PLAN           the disk holds what the plan's rounds leave on it
//! guest edu BDF                    drives QEMU's teaching device by VFIO without an IOMMU
//! ```
//!
//! It says facts as /init does, in lines of "L2: key value"; "act-failed" is one that fails a scenario.

mod disk;
mod edu;
mod memory;
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
        _ => Err(Error::failed(format!("no such job: {words:?}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("L2: act-failed {error}");
            ExitCode::FAILURE
        }
    }
}
