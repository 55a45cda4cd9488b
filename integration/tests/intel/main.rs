//! The scenarios on Intel's VMX, with CPUs that take turns: `make lab-intel`.

mod guests;
mod linux;

use std::process::ExitCode;

use lab::suite;

/// Each machine is one thread of Bochs.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let all = linux::all().into_iter().chain(guests::all());
    suite::run(all.collect(), THREADS)
}
