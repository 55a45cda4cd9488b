//! The amount of work that the bench does, and the time limit.

use std::env;
use std::time::Duration;

use crate::error::{Context, Error, Result};

/// The amount of work.
#[derive(Debug)]
pub struct Plan {
    parts: Vec<u8>,
    /// Rounds of the work that takes seconds.
    pub rounds: usize,
    /// Rounds of the work that takes milliseconds.
    pub quick_rounds: usize,
    /// Reads of each kind in a guest, in one round.
    pub reads: usize,
    /// The time limit of a part in the lab.
    pub budget: Duration,
}

impl Plan {
    /// Reads the variables BENCH, BENCH_ROUNDS, BENCH_SECONDS and BENCH_READS.
    pub fn from_environment() -> Result<Self> {
        let rounds = number("BENCH_ROUNDS", 10)?;
        Ok(Self {
            parts: parts(&text("BENCH"))?,
            rounds,
            quick_rounds: 3 * rounds,
            reads: number("BENCH_READS", 5000)?,
            budget: Duration::from_secs(number("BENCH_SECONDS", 200)? as u64),
        })
    }

    /// Whether the plan includes a part.
    pub fn has(&self, part: u8) -> bool {
        self.parts.contains(&part)
    }
}

/// The value of an environment variable; empty if the variable is not set.
pub fn text(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn number(name: &str, otherwise: usize) -> Result<usize> {
    match text(name).as_str() {
        "" => Ok(otherwise),
        word => word.parse().context(format!("read {name}={word:?}")),
    }
}

/// Parses a list of parts such as "1,3". An empty text means all parts.
fn parts(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok((1..=6).collect());
    }
    text.split(',')
        .map(|word| match word.trim().parse() {
            Ok(part @ 1..=6) => Ok(part),
            _ => Err(Error::with_hint(
                format!("BENCH holds {word:?}, and the bench has parts 1 to 6"),
                "BENCH=1,3 make bench",
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_numbers_of_one_to_six() {
        assert_eq!(parts("").unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(parts("3, 1").unwrap(), [3, 1]);
        for bad in ["0", "7", "x", "1,,2"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
