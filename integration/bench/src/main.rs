//! The program of `make bench`. docs/benchmarking.md explains how to run it and how to read its
//! reports.
//!
//! ```text
//! bench                 measures, and writes results.json, report.md and report.html into
//!                       target/bench/
//! bench check A B       lists the measures that differ between two results files
//! bench readme          writes the last results' summary into docs/benchmarks.md
//! ```

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match bench::command::run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
