//! From an access of the guest's to a function and a register: the two configuration mechanisms.
//!
//! - Mechanism 1, ports 0xcf8 and 0xcfc (PCI 3.0, 3.2.2.3.2): the first 256 bytes.
//! - ECAM, a window of memory (PCI Express 6.0, 7.2.2): all 4096.
//!
//! A register lies in one dword of one function. What an access reaches beyond the data port, or
//! beyond the 4 KiB of a function, belongs to nobody: it reads as ones and is not written. Within
//! that, [`pieces`] splits an access as a bridge would, so that no function sees a crossing one.

use std::ops::Range;

use crate::CONFIG_SPACE_SIZE;

const ENABLE: u32 = 1 << 31;
/// Bits 30:24 are reserved and 1:0 read-only; both read as zero. The extended register bits that
/// some host bridges take in 27:24 are not decoded: ECAM exists for that.
const ADDRESS_BITS: u32 = ENABLE | 0x00ff_fffc;
const PORTS: u8 = 4;
const FUNCTION_SHIFT: u32 = 12;

/// What an access means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
    /// Register, in bytes, below 4096.
    pub offset: u16,
    /// How many bytes of the access, from its first, belong to the function.
    pub len: usize,
}

/// Configuration mechanism 1: the address register behind port 0xcf8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mechanism1 {
    address: u32,
}

impl Mechanism1 {
    /// The register after power-on: disabled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A write to port 0xcf8 + `port`. Only a dword at 0xcf8 itself is the address register;
    /// anything else passes it by, as if other devices were there.
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

    /// What an access of `len` bytes at port 0xcfc + `port` means; nothing while disabled.
    pub fn decode(&self, port: u8, len: usize) -> Option<Target> {
        if self.address & ENABLE == 0 || port >= PORTS || len == 0 {
            return None;
        }
        let [register, devfn, bus, _] = self.address.to_le_bytes();
        Some(Target {
            bus,
            device: devfn >> 3,
            function: devfn & 7,
            offset: u16::from(register | port),
            len: len.min(usize::from(PORTS - port)),
        })
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// What an access of `len` bytes at `offset` in an ECAM window that begins with bus 0 means.
/// Beyond the 256 MiB of a segment: nothing.
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

/// Splits an access into naturally aligned pieces of 1, 2 and 4 bytes, each with its register and
/// its place in the access. Ends where the configuration space does.
pub fn pieces(offset: u16, len: usize) -> impl Iterator<Item = (u16, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = usize::from(offset).checked_add(done)?;
        if done >= len || at >= CONFIG_SPACE_SIZE {
            return None;
        }
        let size = [4, 2, 1]
            .into_iter()
            .find(|size| at % size == 0 && size + done <= len)?;
        let piece = done..done + size;
        done += size;
        Some((u16::try_from(at).ok()?, piece))
    })
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
    fn data_port_lanes() {
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

    #[test]
    fn pieces_are_natural() {
        let split = |offset, len| pieces(offset, len).collect::<Vec<_>>();
        assert_eq!(split(4, 4), [(4, 0..4)]);
        assert_eq!(split(0, 8), [(0, 0..4), (4, 4..8)]);
        assert_eq!(split(1, 3), [(1, 0..1), (2, 1..3)]);
        assert_eq!(split(2, 4), [(2, 0..2), (4, 2..4)]);
        assert_eq!(split(4095, 4), [(4095, 0..1)]);
        assert_eq!(split(4096, 4), []);
        assert_eq!(split(0, 0), []);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_access(offset: u16, len in 0usize..40) {
            let expected = len.min(CONFIG_SPACE_SIZE.saturating_sub(offset.into()));
            let mut next = 0;
            for (at, range) in pieces(offset, len) {
                prop_assert_eq!(range.start, next);
                prop_assert_eq!(usize::from(at), usize::from(offset) + range.start);
                prop_assert!([1, 2, 4].contains(&range.len()));
                prop_assert_eq!(usize::from(at) % range.len(), 0);
                next = range.end;
            }
            prop_assert_eq!(next, expected);
        }

        #[test]
        fn targets_stay_inside(address: u32, port: u8, offset: u64, len: usize) {
            for t in [mechanism(address).decode(port, len), decode_ecam(offset, len)].into_iter().flatten() {
                prop_assert!(t.device < 32 && t.function < 8);
                prop_assert!(t.len > 0 && t.len <= len);
                prop_assert!(usize::from(t.offset) + t.len <= CONFIG_SPACE_SIZE);
            }
        }
    }
}
