//! Counters of a run: exits to this process, by kind.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often a vCPU came out of KVM_RUN to us.
#[derive(Debug, Default)]
pub struct ExitCounters {
    /// Port I/O.
    pub pio: AtomicU64,
    /// Memory-mapped I/O.
    pub mmio: AtomicU64,
    /// All else: kicks, system events.
    pub other: AtomicU64,
}

impl ExitCounters {
    /// Counts one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for ExitCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [pio, mmio, other] =
            [&self.pio, &self.mmio, &self.other].map(|c| c.load(Ordering::Relaxed));
        write!(
            f,
            "exits pio={pio} mmio={mmio} other={other} total={}",
            pio + mmio + other
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_adds_up() {
        let c = ExitCounters::default();
        ExitCounters::count(&c.pio);
        ExitCounters::count(&c.mmio);
        ExitCounters::count(&c.mmio);
        assert_eq!(c.to_string(), "exits pio=1 mmio=2 other=0 total=3");
    }
}
