//! COMMAND as the guest reads the register: the device's value, corrected where the device does not
//! keep an enable bit. The bits that are the host's stay as they were when the device was opened. A mediated device is emulated by a program, and may be incomplete: the
//! COMMAND of the kernel's sample of serial ports (samples/vfio-mdev/mtty.c) cannot be written.

use pci::regs::{COMMAND, command};
use tracing::info;

use crate::vfio::device::{CONFIG_REGION, Device, DeviceError};
use crate::vfio::function::policy::header::COMMAND_BITS;

/// The enable bits of I/O and memory decoding, in the low byte.
const DECODE: u8 = (command::IO | command::MEMORY) as u8;

/// The bits of COMMAND that do not follow the guest.
#[derive(Debug)]
pub(super) struct Command {
    /// Decode enable bits that read as one after zero was written.
    unwritable_bits: u8,
    /// The host's bits, among them the enables of error reports.
    host_bits: u16,
}

impl Command {
    /// Clears COMMAND, as a reset does: the device neither decodes nor starts requests. Reads the
    /// register back to find the bits that stay set.
    ///
    /// # Errors
    /// When the device does not answer.
    pub(super) fn clear(device: &dyn Device) -> Result<Self, DeviceError> {
        let mut command = [0; 2];
        device.read(CONFIG_REGION, COMMAND.into(), &mut command)?;
        let host_bits = u16::from_le_bytes(command) & !COMMAND_BITS;
        device.write(CONFIG_REGION, COMMAND.into(), &host_bits.to_le_bytes())?;
        let mut low = [0];
        device.read(CONFIG_REGION, COMMAND.into(), &mut low)?;
        let unwritable_bits = low[0] & DECODE;
        if unwritable_bits != 0 {
            info!(
                "{}: COMMAND cannot be written; only the VMM turns decoding on and off",
                device.name()
            );
        }
        Ok(Self {
            unwritable_bits,
            host_bits,
        })
    }

    /// The bytes that clear the guest's bits in the device.
    pub(super) fn quiet(&self) -> [u8; 2] {
        self.host_bits.to_le_bytes()
    }

    /// Corrects `data`, which was read from the device at `offset`: an unwritable bit reads as in
    /// `written`, the guest's last value of COMMAND.
    pub(super) fn correct(&self, written: u16, offset: u16, data: &mut [u8]) {
        let low = COMMAND.checked_sub(offset).map(usize::from);
        if let Some(low) = low.and_then(|at| data.get_mut(at)) {
            *low = (*low & !self.unwritable_bits) | (written as u8 & self.unwritable_bits);
        }
    }
}

/// Whether a write sets Bus Master Enable, and so lets the device start requests of its own
/// (PCI Express 6.0, 7.5.1.1.3).
pub(super) fn sets_bus_master(offset: u16, data: &[u8]) -> bool {
    let at = COMMAND.checked_sub(offset).map(usize::from);
    let low = at.and_then(|at| data.get(at));
    low.is_some_and(|low| u16::from(*low) & command::BUS_MASTER != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfio::function::test_device::TestDevice;

    #[test]
    fn one_bit_of_one_byte_sets_bus_master() {
        assert!(sets_bus_master(4, &[4]) && sets_bus_master(4, &[0xff, 0, 0, 0]));
        assert!(sets_bus_master(3, &[0, 4]) && sets_bus_master(0, &[0, 0, 0, 0, 6, 0, 0, 0]));
        assert!(!sets_bus_master(4, &[3, 4]) && !sets_bus_master(5, &[4]));
        assert!(!sets_bus_master(0, &[4; 4]) && !sets_bus_master(8, &[4; 4]));
        assert!(!sets_bus_master(4, &[]) && !sets_bus_master(u16::MAX, &[4]));
    }

    #[test]
    fn error_reports_stay_on_for_the_host() {
        let device = TestDevice::new();
        // SERR# and parity errors, beside all that a guest may set.
        device.write(CONFIG_REGION, 4, &[0x57, 5]).unwrap();
        let command = Command::clear(&device).unwrap();
        assert_eq!((device.config(4), device.config(5)), (0x40, 1));
        assert_eq!(command.quiet(), [0x40, 1]);
    }

    #[test]
    fn a_register_that_keeps_what_is_written_is_left_alone() {
        let device = TestDevice::new();
        device.write(CONFIG_REGION, 4, &[7, 4]).unwrap();
        let command = Command::clear(&device).unwrap();
        assert_eq!((device.config(4), device.config(5)), (0, 0));
        let mut data = [0xa0, 0xa1];
        command.correct(0x0003, 4, &mut data);
        assert_eq!(data, [0xa0, 0xa1]);
        device.set_deaf(true);
        assert!(Command::clear(&device).is_err());
    }

    #[test]
    fn enables_that_cannot_be_written_read_as_the_guest_wrote_them() {
        let device = TestDevice::new().with_fixed_command(0x05);
        let command = Command::clear(&device).unwrap();
        let read = |written, offset, mut data: [u8; 4]| {
            command.correct(written, offset, &mut data);
            data
        };
        // Bus Master Enable is the device's own, and so is all but the one byte.
        assert_eq!(read(0x0000, 4, [5, 1, 2, 3]), [4, 1, 2, 3]);
        assert_eq!(read(0x0001, 4, [5, 1, 2, 3]), [5, 1, 2, 3]);
        assert_eq!(read(0x0000, 2, [5, 1, 5, 3]), [5, 1, 4, 3]);
        assert_eq!(read(0x0000, 8, [5; 4]), [5; 4]);
    }
}
