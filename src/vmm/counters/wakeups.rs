//! Counts how often a thread of this process woke for an interrupt of a device.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counts the wake-ups for one device. There are none where KVM and VFIO share the eventfds.
#[derive(Debug, Default)]
pub struct WakeupMeter {
    delivered: AtomicU64,
    unmasked: AtomicU64,
}

/// The figures of a meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wakeups {
    /// Wake-ups that gave KVM an interrupt of the device.
    pub delivered: u64,
    /// Wake-ups that unmasked the pin, after the guest had acknowledged an interrupt.
    pub unmasked: u64,
}

impl WakeupMeter {
    /// Counts an interrupt that a thread is about to give to KVM.
    pub fn count_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an acknowledgement after which a thread is about to unmask the pin.
    pub fn count_unmasked(&self) {
        self.unmasked.fetch_add(1, Ordering::Relaxed);
    }

    /// The current figures.
    pub fn wakeups(&self) -> Wakeups {
        Wakeups {
            delivered: self.delivered.load(Ordering::Relaxed),
            unmasked: self.unmasked.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_count_of_its_own() {
        let meter = WakeupMeter::default();
        assert_eq!(meter.wakeups(), Wakeups::default());
        meter.count_delivered();
        meter.count_delivered();
        meter.count_unmasked();
        let told = meter.wakeups();
        assert_eq!((told.delivered, told.unmasked), (2, 1));
    }
}
