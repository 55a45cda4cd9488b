//! The bench's helper program in the lab, which is static. In L1, it starts VMMs and watches them.
//! In a guest, it is /init and does the guest's work.
//!
//! ```text
//! probe watch ID COUNTER STOP -- VMM ARGS   L1: starts a VMM; prints "LAB: watched ID ..." for
//!                                           each line of its guest; ends the VMM after the
//!                                           guest's line STOP
//! probe marks ID COUNTER COUNT -- VMM ARGS  L1: starts a VMM with a guest of bench::tiny; prints
//!                                           the time of each mark
//! probe read DISK READS                     L1: reads the disk as the guest does
//! (as process 1)                            L2: reads the disk as bench.disk= and bench.reads= on
//!                                           the kernel's command line say
//! ```

mod guest;
mod reads;
mod vmm;

use std::process::ExitCode;

use bench::error::{Context, Error, Result};
use bench::watch::counters::Counter;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest::run();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["watch", id, counter, stop, "--", command @ ..] => {
            Counter::of(counter).and_then(|counter| vmm::watch(id, counter, stop, command))
        }
        ["marks", id, counter, count, "--", command @ ..] => Counter::of(counter)
            .and_then(|counter| vmm::marks(id, counter, number(count)?, command)),
        ["read", disk, count] => {
            number(count).and_then(|count| reads::all(disk, count, &mut |_| {}))
        }
        _ => Err(Error::new(format!("no such job: {words:?}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("LAB: probe-failed {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Result<usize> {
    word.parse().context(format!("read {word:?} as a number"))
}
