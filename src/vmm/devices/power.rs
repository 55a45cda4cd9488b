//! Power-off and reset by the registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.6 and 4.8.3.7).

use std::sync::Arc;

use tracing::info;
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use crate::guest_event::{GuestEvent, Notifier};
use crate::layout::{PORT_RESET, PORT_SLEEP_CONTROL, RESET_VALUE, SLEEP_TYPE_S5};

/// SLP_TYPx, bits 4:2 of the sleep control register, and SLP_EN, bit 5.
const SLEEP_FIELDS: u8 = 0x3c;
/// The values of both fields that enter S5.
const POWER_OFF: u8 = 1 << 5 | SLEEP_TYPE_S5 << 2;

/// First port of the three registers.
pub const PORT: u16 = PORT_SLEEP_CONTROL;
/// The number of ports of the registers.
pub const PORTS: u16 = PORT_RESET - PORT_SLEEP_CONTROL + 1;

/// Sleep control, sleep status and reset.
pub struct Power {
    notifier: Arc<Notifier>,
}

impl Power {
    /// Makes the registers, which report the guest's requests to `notifier`.
    pub fn new(notifier: Arc<Notifier>) -> Self {
        Self { notifier }
    }
}

impl DevicePio for Power {
    /// All registers read as zero: the machine was never woken from sleep.
    fn pio_read(&self, _: PioAddress, _: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn pio_write(&self, base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let &[value] = data else {
            return;
        };
        match base.0.wrapping_add(offset) {
            PORT_SLEEP_CONTROL if value & SLEEP_FIELDS == POWER_OFF => {
                info!("the guest powers off");
                self.notifier.notify(GuestEvent::PowerOff);
            }
            PORT_RESET if value == RESET_VALUE => {
                info!("the guest resets the machine");
                self.notifier.notify(GuestEvent::Reset);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(port: u16, data: &[u8]) -> Option<GuestEvent> {
        let notifier = Arc::new(Notifier::new().unwrap());
        Power::new(notifier.clone()).pio_write(PioAddress(PORT), port - PORT, data);
        notifier.take()
    }

    #[test]
    fn only_the_defined_values_do_anything() {
        assert_eq!(
            after(PORT_SLEEP_CONTROL, &[0x34]),
            Some(GuestEvent::PowerOff)
        );
        assert_eq!(after(PORT_SLEEP_CONTROL, &[0x14]), None);
        assert_eq!(after(PORT_SLEEP_CONTROL, &[0x24]), None);
        assert_eq!(after(PORT_SLEEP_CONTROL, &[0x34, 0]), None);
        assert_eq!(after(PORT_RESET, &[1]), Some(GuestEvent::Reset));
        assert_eq!(after(PORT_RESET, &[6]), None);
    }
}
