//! Chapter 12: how many exits each loop of guests/loops.s makes.

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use serde_json::Value;

use crate::check::answer::read;
use crate::check::assembled;
use crate::root;

const LIMIT: Duration = Duration::from_secs(20);

/// A loop: its name, how its exits are recognized, and why they are as many as they are.
struct Loop {
    name: &'static str,
    /// The space, the address, and whether it is written; `None` for what has no register.
    register: Option<(&'static str, &'static str, bool)>,
    why: &'static str,
}

const LOOPS: [Loop; 5] = [
    Loop {
        name: "memory",
        register: Some(("memory", "0x80000", true)),
        why: "a slot has the address, so the processor stores there by itself",
    },
    Loop {
        name: "cpuid",
        register: None,
        why: "the processor leaves the guest each time, but KVM has the answer, and mini-vmm is \
              not asked",
    },
    Loop {
        name: "status",
        register: Some(("port", "0x3fd", false)),
        why: "the guest cannot go on without an answer, so a read is never kept in the ring",
    },
    Loop {
        name: "nowhere",
        register: Some(("memory", "0xd8000000", true)),
        why: "KVM knows slots and no devices, so it asks about each store outside of the slots, \
              and this address is not among those that are kept in the ring",
    },
    Loop {
        name: "ids",
        register: Some(("port", "0xcfc", false)),
        why: "the writes to 0xcf8 are kept in the ring, and are done at the exits of the reads",
    },
];

/// Compares an answer with what the guest does.
///
/// # Errors
/// What to look at next.
pub fn check(answer: &Path) -> Result<(), String> {
    let text = read(answer)?;
    let answers: Vec<_> = LOOPS.iter().map(|of| guess(&text, of.name)).collect();
    let answers: Vec<u64> = answers.into_iter().collect::<Result<_, _>>()?;
    let stats = statistics()?;
    let other = stats["exits"]["by_reason"]["other"].as_u64();
    for (of, guess) in LOOPS.iter().zip(answers) {
        let count = match of.register {
            Some(register) => exits(&stats, register),
            None => other.ok_or("the statistics have no other exits")?,
        };
        if count != guess {
            let (name, why) = (of.name, of.why);
            return Err(format!("`{name}` makes {count} exits, not {guess}: {why}."));
        }
    }
    Ok(())
}

/// The number behind a name.
fn guess(text: &str, name: &str) -> Result<u64, String> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let number = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let number = number.ok_or_else(|| {
        format!("There is no line for `{name}`: each loop has a line of its name and a number.")
    })?;
    number.trim().parse().map_err(|_| {
        format!(
            "`{name} {number}` has no number yet: think of who has the address, and whether the \
             guest must wait for an answer."
        )
    })
}

/// Runs the loops, and returns what mini-vmm has counted.
fn statistics() -> Result<Value, String> {
    let program = assembled::assemble(&root().join("docs/tour/guests/loops.s"), "elf")?;
    let kernel = program.0.to_string_lossy();
    let report = env::temp_dir().join(format!("{}.json", kernel.replace('/', "-")));
    let stats = format!("--stats={}", report.display());
    let ended = assembled::run("mini-vmm", &["--kernel", &kernel, &stats], LIMIT);
    let text = fs::read_to_string(&report).unwrap_or_default();
    // A run that was killed has written none.
    let _ = fs::remove_file(&report);
    let output = ended.map_err(|why| format!("The guest {why}."))?;
    match output.status {
        0 => serde_json::from_str(&text).map_err(|e| format!("the statistics: {e}")),
        _ => Err(format!("mini-vmm ended with: {}", output.text)),
    }
}

/// The exits at one register.
fn exits(stats: &Value, (space, address, write): (&str, &str, bool)) -> u64 {
    let registers = stats["exits"]["registers"].as_array().into_iter().flatten();
    let of = registers.filter(|register| {
        register["space"] == space && register["address"] == address && register["write"] == write
    });
    of.filter_map(|register| register["count"].as_u64()).sum()
}
