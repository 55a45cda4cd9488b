//! Counts a device's slow calls, and the time that they took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::counters::wakeups::WakeupMeter;

/// Counts the calls of one kind.
#[derive(Debug, Default)]
pub struct CallMeter {
    calls: AtomicU64,
    ns: AtomicU64,
}

/// The figures of a meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// Calls, failed ones included.
    pub calls: u64,
    /// The sum of their durations in microseconds.
    pub us: u64,
}

impl CallMeter {
    /// Counts one call, which took `took`.
    pub fn count(&self, took: Duration) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The current figures.
    pub fn calls(&self) -> Calls {
        Calls {
            calls: self.calls.load(Ordering::Relaxed),
            us: self.ns.load(Ordering::Relaxed) / 1000,
        }
    }
}

/// Counts the slow calls to one device since it was attached: resets, and changes of interrupts.
#[derive(Debug, Default)]
pub struct DeviceMeter {
    /// Resets, without the reset at the opening of the device.
    pub resets: CallMeter,
    /// Calls of VFIO_DEVICE_SET_IRQS that enable or disable interrupts.
    pub irqs: CallMeter,
    /// When the device first got a vector of MSI or MSI-X: the guest's driver is about to use the
    /// device.
    pub first_vector: OnceLock<Instant>,
    /// Wake-ups of threads of this process for the device's interrupts.
    pub wakeups: OnceLock<Arc<WakeupMeter>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_add_up() {
        let meter = CallMeter::default();
        assert_eq!(meter.calls(), Calls::default());
        meter.count(Duration::from_micros(3));
        meter.count(Duration::from_nanos(1999));
        assert_eq!(meter.calls(), Calls { calls: 2, us: 4 });
    }
}
