//! The six base address registers of a type 0 header, and the expansion ROM's, as the guest sees
//! them (PCI Express 6.0, 7.5.1.2.1 and 7.5.1.2.4; PCI 3.0, 6.2.5).
//!
//! The registers are virtual: they start at zero and hold the guest's values, which are independent
//! of the hardware's addresses. [`super::decoder`] turns a change of the registers into a change of
//! the address map.

use std::fmt;

use crate::regs;
use crate::rom::ROM;
use crate::{byte_enable, rom};

/// The number of base address registers in a type 0 header.
pub const BAR_COUNT: usize = 6;
/// The number of registers: the BARs, and the expansion ROM at index [`ROM`].
pub const REGISTER_COUNT: usize = BAR_COUNT + 1;

const IO: u32 = 1 << 0;
const TYPE: u32 = 0b11 << 1;
const TYPE_64: u32 = 0b10 << 1;
const PREFETCHABLE: u32 = 1 << 3;
const IO_FLAGS: u32 = 0x3;
const MEMORY_FLAGS: u32 = 0xf;
/// End (exclusive) of the port space: x86 has 64 Ki ports.
const IO_END: u64 = 1 << 16;
const MEMORY32_END: u64 = 1 << 32;
/// Offsets of the registers in configuration space.
const OFFSETS: [u16; REGISTER_COUNT] = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, regs::ROM];

/// The kind of a BAR: the space that it decodes, and the width of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects and writes may be merged.
        prefetchable: bool,
    },
    /// Memory anywhere; takes two registers. Both prefetchable and non-prefetchable BARs are legal.
    Memory64 {
        /// Reads have no side effects and writes may be merged.
        prefetchable: bool,
    },
    /// The expansion ROM, below 4 GiB. The register has an enable bit of its own.
    Rom,
}

/// One BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The kind of the BAR.
    pub kind: BarKind,
    /// Size in bytes; a power of two once in [`Bars`].
    pub size: u64,
}

/// The reason why BARs are not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarError {
    /// BAR 5 has no register after it.
    #[error("BAR {bar} is 64-bit but has no register for its upper half")]
    NoUpperHalf {
        /// Index of the BAR.
        bar: usize,
    },
    /// The register is the upper half of the 64-bit BAR before it.
    #[error("BAR {bar} is the upper half of the 64-bit BAR before it and cannot be a BAR itself")]
    UpperHalfTaken {
        /// Index of the register.
        bar: usize,
    },
    /// The size is zero, or too large for the kind of BAR.
    #[error("BAR {bar} cannot have a size of {size:#x} bytes")]
    Size {
        /// Index of the BAR.
        bar: usize,
        /// Size asked for.
        size: u64,
    },
}

impl BarKind {
    /// Whether the BAR decodes I/O ports.
    pub fn is_io(self) -> bool {
        self == Self::Io
    }

    /// Whether the BAR takes two registers.
    pub fn is_64bit(self) -> bool {
        matches!(self, Self::Memory64 { .. })
    }

    /// The address after the last that a BAR of this kind can decode; `None` for 2^64.
    fn limit(self) -> Option<u64> {
        match self {
            Self::Io => Some(IO_END),
            Self::Memory32 { .. } | Self::Rom => Some(MEMORY32_END),
            Self::Memory64 { .. } => None,
        }
    }

    /// The read-only low bits of the register.
    fn flags(self) -> u32 {
        match self {
            Self::Io => IO,
            Self::Memory32 { prefetchable } if prefetchable => PREFETCHABLE,
            Self::Memory32 { .. } | Self::Rom => 0,
            Self::Memory64 { prefetchable } if prefetchable => TYPE_64 | PREFETCHABLE,
            Self::Memory64 { .. } => TYPE_64,
        }
    }
}

impl fmt::Display for BarKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "I/O",
            Self::Memory32 { prefetchable } if *prefetchable => "32-bit prefetchable memory",
            Self::Memory32 { .. } => "32-bit memory",
            Self::Memory64 { prefetchable } if *prefetchable => "64-bit prefetchable memory",
            Self::Memory64 { .. } => "64-bit memory",
            Self::Rom => "expansion ROM",
        })
    }
}

impl Bar {
    /// Whether a BAR with this address in its registers can decode there.
    ///
    /// Address 0 stands for a BAR without an address. Sizing leaves an address whose range ends at
    /// the end of the address space, so such a range does not count. A range beyond the end cannot
    /// be decoded.
    pub fn can_decode_at(&self, address: u64) -> bool {
        let end = address.checked_add(self.size);
        address != 0
            && end.is_some_and(|end| match self.kind {
                // The last ports are possible addresses, because the sizing value lies far above
                // them.
                BarKind::Io => end <= IO_END,
                kind => kind.limit().is_none_or(|limit| end < limit),
            })
    }

    /// The BAR with the size that hardware would have: a power of two, and at least the minimum;
    /// `None` if the kind of BAR cannot be as large.
    fn normal(self) -> Option<Self> {
        let least = match self.kind {
            BarKind::Io => 4,
            BarKind::Rom => rom::MIN_SIZE,
            _ => 16,
        };
        if self.size == 0 {
            return None;
        }
        let size = self.size.checked_next_power_of_two()?.max(least);
        let most = match self.kind.limit() {
            _ if self.kind == BarKind::Rom => rom::MAX_SIZE,
            Some(IO_END) => IO_END,
            // At least one address bit must be writable.
            Some(limit) => limit >> 1,
            None => 1 << 63,
        };
        (size <= most).then_some(Self { size, ..self })
    }

    /// The bits of the address that can be written.
    fn address_mask(&self) -> u64 {
        let mask = !self.size.wrapping_sub(1);
        match self.kind {
            BarKind::Io => mask & !u64::from(IO_FLAGS),
            _ => mask & !u64::from(MEMORY_FLAGS),
        }
    }

    /// The writable bits of the BAR's first register.
    fn writable(&self) -> u32 {
        let enable = match self.kind {
            BarKind::Rom => rom::ENABLE,
            _ => 0,
        };
        self.address_mask() as u32 | enable
    }
}

/// One of the seven registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Register {
    /// The BAR that begins at this register; `None` in an upper half.
    bar: Option<Bar>,
    value: u32,
    writable: u32,
}

/// The six BARs and the ROM register, which reads zero if there is no ROM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bars {
    registers: [Register; REGISTER_COUNT],
}

impl Bars {
    /// Makes registers for these BARs, without addresses. A 64-bit BAR takes its own register and
    /// the next, which must be `None`. Sizes are rounded up to powers of two.
    pub fn new(bars: [Option<Bar>; BAR_COUNT]) -> Result<Self, BarError> {
        let mut registers = [Register::default(); REGISTER_COUNT];
        let mut upper = None;
        for (index, (register, bar)) in registers.iter_mut().zip(bars).enumerate() {
            if let Some(writable) = upper.take() {
                if bar.is_some() {
                    return Err(BarError::UpperHalfTaken { bar: index });
                }
                register.writable = writable;
                continue;
            }
            let Some(bar) = bar else {
                continue;
            };
            let size = bar.size;
            let bar = bar.normal().ok_or(BarError::Size { bar: index, size })?;
            if bar.kind.is_64bit() {
                if index + 1 == BAR_COUNT {
                    return Err(BarError::NoUpperHalf { bar: index });
                }
                upper = Some((bar.address_mask() >> 32) as u32);
            }
            *register = Register {
                bar: Some(bar),
                value: bar.kind.flags(),
                writable: bar.writable(),
            };
        }
        Ok(Self { registers })
    }

    /// Adds an expansion ROM of `size` bytes, rounded up to a power of two.
    ///
    /// # Errors
    /// [`BarError::Size`] when a ROM cannot be that large, or has no bytes.
    pub fn with_rom(mut self, size: u64) -> Result<Self, BarError> {
        let bar = Bar {
            kind: BarKind::Rom,
            size,
        };
        let bar = bar.normal().ok_or(BarError::Size { bar: ROM, size })?;
        if let Some(register) = self.registers.get_mut(ROM) {
            *register = Register {
                bar: Some(bar),
                value: 0,
                writable: bar.writable(),
            };
        }
        Ok(self)
    }

    /// Makes registers for the BARs of a device: `raw` are the device's registers, and `sizes` the
    /// bytes that each BAR decodes, 0 for no BAR. The size of an upper half is ignored, and so are
    /// the addresses.
    pub fn decode(raw: [u32; BAR_COUNT], sizes: [u64; BAR_COUNT]) -> Result<Self, BarError> {
        let mut bars = [None; BAR_COUNT];
        let mut upper = false;
        for ((bar, raw), size) in bars.iter_mut().zip(raw).zip(sizes) {
            if std::mem::take(&mut upper) || size == 0 {
                continue;
            }
            let kind = kind(raw);
            upper = kind.is_64bit();
            *bar = Some(Bar { kind, size });
        }
        Self::new(bars)
    }

    /// Returns the sizes for [`Bars::decode`], found by sizing: `raw` are the registers before, and
    /// `answers` after all ones were written to them. An upper half has size 0.
    pub fn sizes(raw: [u32; BAR_COUNT], answers: [u32; BAR_COUNT]) -> [u64; BAR_COUNT] {
        let mut sizes = [0; BAR_COUNT];
        let uppers = answers.into_iter().skip(1).chain([0]);
        let mut upper_half = false;
        for (((size, raw), answer), upper) in sizes.iter_mut().zip(raw).zip(answers).zip(uppers) {
            if std::mem::take(&mut upper_half) {
                continue;
            }
            let kind = kind(raw);
            upper_half = kind.is_64bit();
            let mask = match kind {
                // The upper 16 bits of an I/O BAR may be fixed at zero.
                BarKind::Io if answer & !IO_FLAGS != 0 => u64::from(answer & !IO_FLAGS) | !0xffff,
                BarKind::Io => 0,
                BarKind::Memory32 { .. } if answer & !MEMORY_FLAGS != 0 => {
                    u64::from(answer & !MEMORY_FLAGS) | !0xffff_ffff
                }
                BarKind::Memory32 { .. } | BarKind::Rom => 0,
                BarKind::Memory64 { .. } => {
                    u64::from(upper) << 32 | u64::from(answer & !MEMORY_FLAGS)
                }
            };
            // The lowest writable address bit is the size.
            *size = mask & mask.wrapping_neg();
        }
        sizes
    }

    /// Fills in the bytes of the registers that a read of `data` at `offset` of configuration space
    /// covers. The rest of `data` stays unchanged.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (register, at) in self.registers.iter().zip(OFFSETS) {
            byte_enable::extract(register.value.to_le_bytes(), at.into(), offset.into(), data);
        }
    }

    /// The guest's write of any bytes at `offset` of configuration space; read-only bits stay.
    /// Returns whether the write touched one of the registers.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> bool {
        let mut touched = false;
        for (register, at) in self.registers.iter_mut().zip(OFFSETS) {
            let (at, offset) = (at.into(), offset.into());
            touched |= byte_enable::touches(offset, data.len(), at, 4);
            register.value =
                byte_enable::merge(register.value, at, register.writable, offset, data);
        }
        touched
    }

    /// The BAR that begins at register `index`, or the ROM at index [`ROM`].
    pub fn get(&self, index: usize) -> Option<&Bar> {
        self.registers.get(index)?.bar.as_ref()
    }

    /// The address in the register or registers of a BAR; 0 if no address is assigned.
    pub fn address(&self, index: usize) -> Option<u64> {
        let register = self.registers.get(index)?;
        let bar = register.bar?;
        let low = u64::from(register.value & bar.address_mask() as u32);
        let high = match bar.kind.is_64bit() {
            true => self.registers.get(index + 1)?.value,
            false => 0,
        };
        Some(u64::from(high) << 32 | low)
    }

    /// Puts an address into the register or registers of a BAR, under the same masks as a write.
    /// The ROM's enable bit stays.
    pub fn set_address(&mut self, index: usize, address: u64) {
        let halves = [address as u32, (address >> 32) as u32];
        let count = match self.get(index) {
            Some(bar) if bar.kind.is_64bit() => 2,
            Some(_) => 1,
            None => 0,
        };
        let rom = index == ROM;
        let registers = self.registers.iter_mut().skip(index).take(count);
        for (register, half) in registers.zip(halves) {
            let mask = register.writable & if rom { !rom::ENABLE } else { !0 };
            register.value = (register.value & !mask) | (half & mask);
        }
    }

    /// Whether the register itself lets the BAR decode. Only the ROM's register has an enable bit.
    pub fn is_enabled(&self, index: usize) -> bool {
        let register = self.registers.get(index);
        index != ROM || register.is_some_and(|r| r.value & rom::ENABLE != 0)
    }

    /// The BARs and the ROM with their indices and addresses.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Bar, u64)> {
        (0..REGISTER_COUNT).filter_map(|i| Some((i, self.get(i)?, self.address(i)?)))
    }

    /// Sets the registers to power-on: no BAR has an address, and the ROM is disabled.
    pub fn clear(&mut self) {
        for register in &mut self.registers {
            register.value &= !register.writable;
        }
    }
}

/// The kind of BAR by the low bits of a register. Bit 0 is checked first, because an I/O BAR has no
/// type bits. The types 01 (below 1 MiB, obsolete) and 11 (reserved) count as 32-bit.
fn kind(raw: u32) -> BarKind {
    let prefetchable = raw & PREFETCHABLE != 0;
    if raw & IO != 0 {
        BarKind::Io
    } else if raw & TYPE == TYPE_64 {
        BarKind::Memory64 { prefetchable }
    } else {
        BarKind::Memory32 { prefetchable }
    }
}

#[cfg(test)]
pub(crate) mod tests;
