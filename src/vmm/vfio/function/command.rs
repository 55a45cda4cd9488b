//! COMMAND as the guest reads the register: the device's value, corrected where the device does not
//! keep an enable bit. The bits that are the host's stay as they were when the device was opened.
//!
//! Behind a root port whose Bus Master Enable is off, the device's own is off too, because nothing
//! else stops its requests and messages: the port of the guest is not in their way (PCI Express
//! 6.0, 7.5.1.1.3). The guest reads the bit as it wrote it.
//!
//! A mediated device is emulated by a program, and may be incomplete: the COMMAND of the kernel's
//! sample of serial ports (samples/vfio-mdev/mtty.c) cannot be written.

use std::sync::Arc;

use pci::regs::{COMMAND, command};
use pci::upstream::Upstream;
use tracing::info;

use crate::vfio::device::{CONFIG_REGION, Device, DeviceError};
use crate::vfio::function::connection::Connection;
use crate::vfio::function::policy::header::COMMAND_BITS;

/// The enable bits of I/O and memory decoding, in the low byte.
const DECODE: u8 = (command::IO | command::MEMORY) as u8;
/// Bus Master Enable, in the low byte.
const BUS_MASTER: u8 = command::BUS_MASTER as u8;

/// The bits of COMMAND that do not follow the guest.
#[derive(Debug)]
pub(super) struct Command {
    /// What the root port above the function lets through; `None` on the root bus.
    upstream: Option<Arc<Upstream>>,
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
            upstream: None,
            unwritable_bits,
            host_bits,
        })
    }

    /// The same of a function that is behind a root port, if there is `upstream`.
    pub(super) fn behind(self, upstream: Option<Arc<Upstream>>) -> Self {
        Self { upstream, ..self }
    }

    /// Whether the port above the function lets requests of the device through.
    pub(super) fn lets_requests_through(&self) -> bool {
        self.upstream
            .as_ref()
            .is_none_or(|port| port.now().bus_master)
    }

    /// What the device gets of a guest's write of `data` at `offset`, where requests are let
    /// `through` or not.
    pub(super) fn for_device(offset: u16, data: &[u8], through: bool) -> Vec<u8> {
        let mut data = data.to_vec();
        if let Some(low) = low_byte(offset, &mut data)
            && !through
        {
            *low &= !BUS_MASTER;
        }
        data
    }

    /// The bytes that set the device's COMMAND to `written`, the guest's last value.
    pub(super) fn again(&self, written: u16, through: bool) -> Vec<u8> {
        Self::for_device(COMMAND, &(self.host_bits | written).to_le_bytes(), through)
    }

    /// The bytes that clear the guest's bits in the device.
    pub(super) fn quiet(&self) -> [u8; 2] {
        self.host_bits.to_le_bytes()
    }

    /// COMMAND after a reset: `written`, the guest's last value, without the bits that the device
    /// has lost.
    pub(super) fn after_reset(&self, written: u16, connection: &Connection) -> u16 {
        let mut now = [0; 2];
        connection.read_config(COMMAND, &mut now);
        self.correct(written, COMMAND, &mut now);
        written & u16::from_le_bytes(now)
    }

    /// Corrects `data`, which was read from the device at `offset`: an unwritable bit reads as in
    /// `written`, the guest's last value of COMMAND.
    pub(super) fn correct(&self, written: u16, offset: u16, data: &mut [u8]) {
        if let Some(low) = low_byte(offset, data) {
            let withheld = match self.lets_requests_through() {
                true => 0,
                false => BUS_MASTER,
            };
            let kept = self.unwritable_bits | withheld;
            *low = (*low & !kept) | (written as u8 & kept);
        }
    }
}

/// The low byte of COMMAND in an access of `data` at `offset`.
fn low_byte(offset: u16, data: &mut [u8]) -> Option<&mut u8> {
    let low = COMMAND.checked_sub(offset).map(usize::from);
    data.get_mut(low?)
}

#[cfg(test)]
mod tests {
    use pci::upstream::Forwarding;

    use super::*;
    use crate::vfio::function::test_device::TestDevice;

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
    fn a_port_withholds_bus_mastering() {
        let device = TestDevice::new();
        device.write(CONFIG_REGION, 4, &[0x40, 1]).unwrap();
        let upstream = Arc::new(Upstream::new());
        let command = Command::clear(&device).unwrap();
        let command = command.behind(Some(Arc::clone(&upstream)));
        let withheld = |offset, data: &[u8]| Command::for_device(offset, data, false);
        assert_eq!(withheld(4, &[0x47, 1]), [0x43, 1]);
        assert_eq!(withheld(0, &[0, 0, 0, 0, 4]), [0; 5]);
        assert_eq!(withheld(5, &[4]), [4]);
        assert_eq!(Command::for_device(4, &[0x47, 1], true), [0x47, 1]);
        assert!(!command.lets_requests_through());
        assert_eq!(command.again(0x0406, false), [0x42, 5]);
        assert_eq!(command.again(0x0406, true), [0x46, 5]);
        // The guest reads what it wrote.
        let mut data = [0x43, 1];
        command.correct(0x0006, 4, &mut data);
        assert_eq!(data, [0x47, 1]);
        upstream.set(Forwarding {
            bus_master: true,
            ..Forwarding::default()
        });
        assert!(command.lets_requests_through());
        let mut data = [0x43, 1];
        command.correct(0x0006, 4, &mut data);
        assert_eq!(data, [0x43, 1], "the device's own again");
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
