//! The bench's hands in the lab: a static program, which is /init of its guests and, in L1, starts
//! VMMs and watches them.
//!
//! ```text
//! probe watch ID COUNTER STOP -- VMM ARGS     L1: starts a VMM; a line "LAB: watched ID ..." for each
//!                                             of its guest's; ends it where the guest says STOP
//! probe marks ID COUNTER COUNT -- VMM ARGS    L1: the same for a guest of lab::tiny, timed at each mark
//! probe read DISK READS                       L1: what the guest does with its disk
//! (as process 1)                              L2: does as bench= on the kernel's command line asks
//! ```

mod cpu;
mod exits;
mod guest;
mod reads;
mod vmm;

use std::process::ExitCode;

use lab::error::Context;
use lab::{Error, Result};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest::run();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["watch", id, counter, stop, "--", command @ ..] => {
            exits::Counter::of(counter).and_then(|counter| vmm::watch(id, counter, stop, command))
        }
        ["marks", id, counter, count, "--", command @ ..] => exits::Counter::of(counter)
            .and_then(|counter| vmm::marks(id, counter, number(count)?, command)),
        ["read", disk, count] => {
            number(count).and_then(|count| reads::all(disk, count, &mut |_| {}))
        }
        _ => Err(Error::failed(format!("no such job: {words:?}"))),
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
