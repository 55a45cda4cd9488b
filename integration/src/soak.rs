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
