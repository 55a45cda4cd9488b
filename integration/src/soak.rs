//! A soak: guests under disk and network load for a time, with reboots, hot-plug, unbinds by the
//! host and kills, all drawn from a seed. Nothing may be lost: contents of disks, pinned pages,
//! descriptors, maps, records, the host's drivers, memory. integration/resources/l1-soak.sh is the
//! script, and says what is lost.

use crate::disk::Disk;
use crate::error::Result;
use crate::expect::expect;
use crate::machine::NETWORK_CARD;
use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::scripts::L1_SOAK;
use crate::transcript::number;

/// The disk that each guest begins with.
const FIRST: Disk = Disk::new("first-disk", 5);
/// The disk that comes and goes.
const SECOND: Disk = Disk::new("second-disk", 6);
/// The address of [`NETWORK_CARD`].
const CARD: &str = "0000:00:09.0";

/// Seconds that a soak may take longer than it was told: the boot of L1, the last run, checks.
const REST: u64 = 240;

/// How long, and by which numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soak {
    /// Seconds in L1 after which no further guest begins.
    pub seconds: u64,
    /// What is drawn follows from this number.
    pub seed: u32,
}

impl Soak {
    /// The scenario. It fails if anything was lost.
    pub fn scenario(self, name: &'static str) -> Scenario {
        let Self { seconds, seed } = self;
        let (first, second) = (FIRST.bdf(), SECOND.bdf());
        let script = format!(
            "soak_seconds={seconds} soak_seed={}\n\
             first={first} second={second} card={CARD}\n\
             {L1_SOAK}",
            seed & 0x7fff_ffff
        );
        Scenario::new(name)
            .limit(seconds + REST)
            .machine(|l1| l1.disks.extend([FIRST, SECOND]))
            .qemu(&NETWORK_CARD)
            .may_be_degraded(&["device-returned", "no-peer-to-peer"])
            .script(script, verify)
    }
}

/// Nothing was lost, and something was done.
fn verify(outcome: &Outcome) -> Result<()> {
    let lost: Vec<_> = outcome.transcript.lab("lost").collect();
    expect(lost.is_empty(), || format!("lost: {}", lost.join("; ")))?;
    let done = outcome.transcript.lab("soak-done").next();
    expect(done == Some("lost=0"), || {
        "the soak has not come to its end".into()
    })?;
    let last = outcome.transcript.lab("soak").last().unwrap_or_default();
    let counted = |key| number(last, key).unwrap_or(0);
    expect(counted("runs") > 0 && counted("rounds") > 0, || {
        format!("the guests did nothing: {last}")
    })?;
    expect(counted("pings") > 0, || {
        format!("no guest reached the network: {last}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{Line, Transcript};
    use std::path::PathBuf;
    use std::time::Duration;

    fn verdict(lines: &[&str]) -> String {
        let lines = lines.iter().map(|raw| Line::new(Duration::ZERO, raw));
        let outcome = Outcome {
            transcript: Transcript {
                lines: lines.collect(),
            },
            dir: PathBuf::new(),
        };
        verify(&outcome).map_or_else(|error| error.to_string(), |()| "passed".into())
    }

    #[test]
    fn a_soak_that_lost_something_or_did_nothing_fails() {
        let counted = "LAB: soak s=60 runs=4 rounds=30 pings=500 lost=0";
        let done = "LAB: soak-done lost=0";
        assert_eq!(verdict(&[counted, done]), "passed");
        let lost = "LAB: lost maps: 3 after a removal in run 2, 2 before";
        assert!(verdict(&[lost, counted, done]).starts_with("lost: maps: 3"));
        for (lines, says) in [
            (&[counted][..], "not come to its end"),
            (&[counted, "LAB: soak-done lost=1"], "not come to its end"),
            (&[done], "did nothing"),
            (
                &[&counted.replace("rounds=30", "rounds=0"), done],
                "did nothing",
            ),
            (
                &[&counted.replace("pings=500", "pings=0"), done],
                "no guest reached",
            ),
        ] {
            assert!(verdict(lines).contains(says), "{lines:?}");
        }
    }

    #[test]
    fn a_seed_is_the_whole_of_what_is_drawn() {
        let script = |seed| {
            let soak = Soak { seconds: 9, seed };
            soak.scenario("unit").l1_script("quiet")
        };
        assert!(script(7).contains("soak_seconds=9 soak_seed=7\n"));
        assert_eq!(script(7), script(7 | 1 << 31));
        assert_ne!(script(7), script(8));
    }
}
