//! The bench's helper in the lab: a static program. As /init of a guest it does the guest's work;
//! in L1 it starts VMMs and watches them.
//!
//! ```text
//! probe watch ID COUNTER STOP -- VMM ARGS   L1: starts a VMM; prints "LAB: watched ID ..." for
//!                                           each line of its guest; ends it where the guest says
//!                                           STOP
//! probe marks ID COUNTER COUNT -- VMM ARGS  L1: the same for a guest of bench::tiny; the time of
//!                                           each mark
//! probe read DISK READS                     L1: what the guest does with its disk
//! (as process 1)                            L2: does what bench.disk= and bench.reads= on the
//!                                           kernel's command line ask for
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
