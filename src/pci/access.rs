//! The two configuration mechanisms: decode a guest's access to a function and a register.
//!
//! - Mechanism 1, ports 0xcf8 and 0xcfc (PCI 3.0, 3.2.2.3.2): the first 256 bytes.
//! - ECAM, a window of memory (PCI Express 6.0, 7.2.2): all 4096.
//!
//! A register lies in one dword of one function. Bytes of an access beyond the data port, or beyond
//! the 4 KiB of a function, belong to no function: they read as all ones, and writes to them are
//! dropped.

use std::sync::{Arc, Mutex, PoisonError};

use vm_device::bus::{MmioAddress, MmioAddressOffset, PioAddress, PioAddressOffset};
use vm_device::{DeviceMmio, DevicePio};

use crate::CONFIG_SPACE_SIZE;
use crate::bus::{RootBus, Target};

const ENABLE: u32 = 1 << 31;
/// Bits 30:24 are reserved and 1:0 read-only; both read as zero. Some host bridges decode 27:24 as
/// extended register bits. This bridge does not, because the guest has ECAM.
const ADDRESS_BITS: u32 = ENABLE | 0x00ff_fffc;
const DATA_PORTS: u8 = 4;
const FUNCTION_SHIFT: u32 = 12;

/// Configuration mechanism 1: the address register behind port 0xcf8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mechanism1 {
    address: u32,
}

impl Mechanism1 {
    /// The mechanism after power-on: disabled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A write to port 0xcf8 + `port`. Only a dword write at 0xcf8 itself reaches the address
    /// register. Other accesses do not, as if the ports belonged to other devices.
    pub fn address_write(&mut self, port: u8, data: &[u8]) {
        if let (0, Ok(bytes)) = (port, <[u8; 4]>::try_from(data)) {
            self.address = u32::from_le_bytes(bytes) & ADDRESS_BITS;
        }
    }

    /// A read of port 0xcf8 + `port`; all ones for everything but a dword at 0xcf8 itself.
    pub fn address_read(&self, port: u8, data: &mut [u8]) {
        data.fill(0xff);
        if port == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        }
    }

    /// Decodes an access of `len` bytes at port 0xcfc + `port`; `None` while the mechanism is
    /// disabled.
    pub fn decode(&self, port: u8, len: usize) -> Option<Target> {
        if self.address & ENABLE == 0 || port >= DATA_PORTS || len == 0 {
            return None;
        }
        let [register, devfn, bus, _] = self.address.to_le_bytes();
        Some(Target {
            bus,
            device: devfn >> 3,
            function: devfn & 7,
            offset: u16::from(register | port),
            len: len.min(usize::from(DATA_PORTS - port)),
        })
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Decodes an access of `len` bytes at `offset` in an ECAM window that begins with bus 0; `None`
/// beyond the 256 MiB of a segment.
pub fn decode_ecam(offset: u64, len: usize) -> Option<Target> {
    let address = u32::try_from(offset).ok()?;
    if len == 0 {
        return None;
    }
    let [devfn, bus, beyond, _] = (address >> FUNCTION_SHIFT).to_le_bytes();
    if beyond != 0 {
        return None;
    }
    let register = u16::try_from(address & 0xfff).ok()?;
    Some(Target {
        bus,
        device: devfn >> 3,
        function: devfn & 7,
        offset: register,
        len: len.min(CONFIG_SPACE_SIZE - usize::from(register)),
    })
}

/// The number of ports of mechanism 1, from 0xcf8.
pub const PORTS: u16 = 8;
/// The data port, from 0xcf8.
const DATA_PORT: u8 = 4;

/// The ports of configuration mechanism 1, on the bus of ports.
pub struct ConfigPorts {
    root: Arc<RootBus>,
    mechanism: Mutex<Mechanism1>,
}

impl ConfigPorts {
    /// Makes ports that access the functions of `root`.
    pub fn new(root: Arc<RootBus>) -> Self {
        Self {
            root,
            mechanism: Mutex::default(),
        }
    }

    /// Back to power-on.
    pub fn reset(&self) {
        self.mechanism
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reset();
    }
}

impl DevicePio for ConfigPorts {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        let port = offset as u8;
        let mechanism = *self
            .mechanism
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match port.checked_sub(DATA_PORT) {
            None => mechanism.address_read(port, data),
            Some(port) => self.root.read(mechanism.decode(port, data.len()), data),
        }
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let port = offset as u8;
        let mut mechanism = self
            .mechanism
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match port.checked_sub(DATA_PORT) {
            None => mechanism.address_write(port, data),
            Some(port) => {
                let target = mechanism.decode(port, data.len());
                drop(mechanism);
                self.root.write(target, data);
            }
        }
    }
}

/// ECAM, PCI Express's memory-mapped configuration space, on the memory bus.
pub struct Ecam(pub Arc<RootBus>);

impl DeviceMmio for Ecam {
    fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read(decode_ecam(offset, data.len()), data);
    }

    fn mmio_write(&self, _: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write(decode_ecam(offset, data.len()), data);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mechanism(address: u32) -> Mechanism1 {
        let mut m = Mechanism1::new();
        m.address_write(0, &address.to_le_bytes());
        m
    }

    fn target(bus: u8, device: u8, function: u8, offset: u16, len: usize) -> Option<Target> {
        Some(Target {
            bus,
            device,
            function,
            offset,
            len,
        })
    }

    #[test]
    fn only_a_dword_at_cf8_is_the_address() {
        let mut m = mechanism(0x8000_1234);
        m.address_write(3, &[0x01]);
        m.address_write(0, &[0x01]);
        m.address_write(0, &[0x01, 0x02]);
        m.address_write(1, &[0; 4]);
        m.address_write(0, &[0; 8]);
        let mut dword = [0; 4];
        m.address_read(0, &mut dword);
        assert_eq!(u32::from_le_bytes(dword), 0x8000_1234);
        for (port, len) in [(0, 1), (0, 2), (2, 2), (3, 1), (1, 4), (0, 8)] {
            let mut data = vec![0; len];
            m.address_read(port, &mut data);
            assert!(data.iter().all(|b| *b == 0xff), "{port} {len}");
        }
        m.reset();
        assert_eq!(m.decode(0, 4), None);
    }

    #[test]
    fn reserved_address_bits_read_zero() {
        let mut dword = [0; 4];
        mechanism(!0).address_read(0, &mut dword);
        assert_eq!(u32::from_le_bytes(dword), 0x80ff_fffc);
    }

    #[test]
    fn data_port_byte_enables() {
        let m = mechanism(0x8000_0000 | 0x02 << 16 | 0x1f << 11 | 3 << 8 | 0x40);
        assert_eq!(m.decode(0, 4), target(2, 0x1f, 3, 0x40, 4));
        assert_eq!(m.decode(2, 2), target(2, 0x1f, 3, 0x42, 2));
        assert_eq!(m.decode(3, 1), target(2, 0x1f, 3, 0x43, 1));
        assert_eq!(m.decode(3, 4), target(2, 0x1f, 3, 0x43, 1));
        assert_eq!(m.decode(0, 8), target(2, 0x1f, 3, 0x40, 4));
        assert_eq!(m.decode(4, 1), None);
        assert_eq!(m.decode(0, 0), None);
        assert_eq!(mechanism(0x40).decode(0, 4), None);
    }

    #[test]
    fn ecam_fields() {
        assert_eq!(decode_ecam(0, 4), target(0, 0, 0, 0, 4));
        let offset = 1 << 20 | 2 << 15 | 3 << 12 | 0xabc;
        assert_eq!(decode_ecam(offset, 2), target(1, 2, 3, 0xabc, 2));
        assert_eq!(decode_ecam(0xffe, 8), target(0, 0, 0, 0xffe, 2));
        assert_eq!(decode_ecam((1 << 28) - 1, 1), target(255, 31, 7, 0xfff, 1));
        assert_eq!(decode_ecam(1 << 28, 1), None);
        assert_eq!(decode_ecam(u64::MAX, 8), None);
    }

    proptest! {
        #[test]
        fn targets_stay_inside(address: u32, port: u8, offset: u64, len: usize) {
            let targets = [mechanism(address).decode(port, len), decode_ecam(offset, len)];
            for t in targets.into_iter().flatten() {
                prop_assert!(t.device < 32 && t.function < 8);
                prop_assert!(t.len > 0 && t.len <= len);
                prop_assert!(usize::from(t.offset) + t.len <= CONFIG_SPACE_SIZE);
            }
        }
    }
}
