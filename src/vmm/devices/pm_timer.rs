//! The ACPI power management timer (ACPI 6.5, 4.8.3.3): a counter at 3.579545 MHz, which a guest
//! measures other clocks against.
//!
//! The machine has neither a PIT nor an HPET. A kernel that does not use KVM's clock learns the
//! frequency of the time-stamp counter from CPUID leaf 0x15 on Intel, and from this timer elsewhere
//! (Linux, `pit_hpet_ptimer_calibrate_cpu`). Without the timer, such a kernel waits for ever.
//!
//! Hardware-reduced ACPI has no PM timer of its own (4.1), but the FADT may still name one, and
//! Linux takes the timer from there (`acpi_parse_fadt`).

use rustix::time::ClockId;
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use crate::sys;

/// The number of ports: the register is 32 bits wide.
pub const PORTS: u16 = 4;

const FREQUENCY: u128 = 3_579_545;
const NANOSECONDS: u128 = 1_000_000_000;

/// The timer. It has no state, because it shows the host's monotonic clock: a reboot of the guest
/// does not change the count.
pub struct PmTimer;

/// The count at a time in nanoseconds. The upper bits are dropped: the counter wraps after 20
/// minutes.
fn count(ns: u64) -> u32 {
    (u128::from(ns) * FREQUENCY / NANOSECONDS) as u32
}

impl DevicePio for PmTimer {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        let bytes = count(sys::clock_ns(ClockId::Monotonic)).to_le_bytes();
        let part = bytes.get(usize::from(offset)..).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(part) {
            *to = *from;
        }
    }

    /// The register is read-only.
    fn pio_write(&self, _: PioAddress, _: PioAddressOffset, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn counts_at_its_frequency_and_wraps() {
        assert_eq!(count(0), 0);
        assert_eq!(count(1_000_000_000), 3_579_545);
        // 2^32 counts take 1199.864 s.
        assert_eq!(count(1_200_000_000_000), (3_579_545 * 1200_u64) as u32);
        assert!(count(u64::MAX) > 0);
    }

    fn read() -> u32 {
        let mut data = [0; 4];
        PmTimer.pio_read(PioAddress(0), 0, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn shows_the_time_that_passes() {
        let (begun, first) = (Instant::now(), read());
        thread::sleep(Duration::from_millis(20));
        let counted = read().wrapping_sub(first);
        let most = begun.elapsed();
        assert!(counted >= 3_579_545 / 50, "{counted}");
        let limit = most.as_micros() * FREQUENCY / 1_000_000 + 1;
        assert!(u128::from(counted) <= limit, "{counted} after {most:?}");
    }

    #[test]
    fn narrow_reads_are_parts_of_the_register() {
        let mut high = [0xff; 2];
        PmTimer.pio_read(PioAddress(0), 2, &mut high);
        let high = u16::from_le_bytes(high);
        let now = (read() >> 16) as u16;
        assert!(now.wrapping_sub(high) <= 1000, "{high:#x} {now:#x}");
        PmTimer.pio_write(PioAddress(0), 0, &[0; 4]);
    }
}
