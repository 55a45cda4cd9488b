//! The scenarios on Intel's VMX, with CPUs that take turns: `make lab-intel`.

mod linux;

use std::process::ExitCode;

use lab::suite;

/// Each machine is one thread of Bochs.
const THREADS: usize = 2;

fn main() -> ExitCode {
    suite::run(linux::all(), THREADS)
}
