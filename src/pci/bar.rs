//! The six base address registers of a type 0 header, and the expansion ROM's, as the guest sees
//! them (PCI Express 6.0, 7.5.1.2.1 and 7.5.1.2.4; PCI 3.0, 6.2.5).
//!
//! The registers are virtual: they start at zero and hold what the guest writes, whatever the
//! addresses of the hardware are. What a change means for the address map is
//! [`super::decoder`]'s matter.

use std::fmt;

use crate::regs;
use crate::rom::ROM;
use crate::{byte_enable, rom};

/// How many base address registers a type 0 header has.
pub const BAR_COUNT: usize = 6;
/// The BARs, and after them the expansion ROM at index [`ROM`].
pub const REGISTER_COUNT: usize = BAR_COUNT + 1;

const IO: u32 = 1 << 0;
const TYPE: u32 = 0b11 << 1;
const TYPE_64: u32 = 0b10 << 1;
const PREFETCHABLE: u32 = 1 << 3;
const IO_FLAGS: u32 = 0x3;
const MEMORY_FLAGS: u32 = 0xf;
/// x86 has 64 Ki ports.
const IO_END: u64 = 1 << 16;
const MEMORY32_END: u64 = 1 << 32;
/// Where the registers are in configuration space.
const OFFSETS: [u16; REGISTER_COUNT] = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, regs::ROM];

/// What a BAR decodes, and with how wide an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects and writes may be merged.
        prefetchable: bool,
    },
    /// Memory anywhere; takes two registers. Prefetchable or not: both are legal.
    Memory64 {
        /// Reads have no side effects and writes may be merged.
        prefetchable: bool,
    },
    /// The expansion ROM, below 4 GiB; it has an enable bit of its own.
    Rom,
}

/// One BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// How many bytes; a power of two once in [`Bars`].
    pub size: u64,
}

/// Why registers cannot be what they are said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarError {
    /// BAR 5 has no register after it.
    #[error("BAR {bar} is 64-bit but has no register for its upper half")]
    NoUpperHalf {
        /// Index of the BAR.
        bar: usize,
    },
    /// A 64-bit BAR needs the register after it.
    #[error("BAR {bar} is the upper half of the 64-bit BAR before it and cannot be a BAR itself")]
    UpperHalfTaken {
        /// Index of the register.
        bar: usize,
    },
    /// Zero, or more than the kind of BAR can have.
    #[error("BAR {bar} cannot have a size of {size:#x} bytes")]
    Size {
        /// Index of the BAR.
        bar: usize,
        /// Size asked for.
        size: u64,
    },
}

impl BarKind {
    /// Whether it decodes I/O ports.
    pub fn is_io(self) -> bool {
        self == Self::Io
    }

    /// Whether it takes two registers.
    pub fn is_64bit(self) -> bool {
        matches!(self, Self::Memory64 { .. })
    }

    /// The address after the last that it can decode; `None` for 2^64.
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
    /// Address 0 stands for a BAR without an address. A range that ends where the address space does
    /// is what sizing leaves in the registers; a range beyond the end cannot be decoded.
    pub fn can_decode_at(&self, address: u64) -> bool {
        let end = address.checked_add(self.size);
        address != 0
            && end.is_some_and(|end| match self.kind {
                // The last ports can be had: the sizing value is far above them.
                BarKind::Io => end <= IO_END,
                kind => kind.limit().is_none_or(|limit| end < limit),
            })
    }

    /// With the size as hardware would have it: a power of two and not below the least.
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
            // The address needs a bit of its own.
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

    /// The bits of its first register that can be written.
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
    /// The BAR that begins here; none in an upper half.
    bar: Option<Bar>,
    value: u32,
    writable: u32,
}

/// The six registers and the expansion ROM's, which reads 0 as long as there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bars {
    registers: [Register; REGISTER_COUNT],
}

impl Bars {
    /// Registers for these BARs, without addresses. A 64-bit BAR takes its own register and the
    /// next, which must be `None`. Sizes become powers of two.
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

    /// The same with an expansion ROM of `size` bytes, which become a power of two.
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

    /// Registers for the BARs of a device: `raw` are its registers, `sizes` what each decodes, 0
    /// for nothing. The size of an upper half is not looked at, and the addresses are not taken.
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

    /// The sizes for [`Bars::decode`] of registers that answered `answers` after all ones were
    /// written to them; `raw` is what they held before. Each upper half has 0.
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
            // The lowest bit that took the one.
            *size = mask & mask.wrapping_neg();
        }
        sizes
    }

    /// The bytes of the registers that a read of `data` at `offset` of configuration space covers;
    /// the rest of `data` stays as it is.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (register, at) in self.registers.iter().zip(OFFSETS) {
            byte_enable::extract(register.value.to_le_bytes(), at.into(), offset.into(), data);
        }
    }

    /// The guest's write of any bytes at `offset` of configuration space; read-only bits stay.
    /// Tells whether one of the registers was touched.
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

    /// The address in the register or registers of a BAR; 0 when there is none.
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

    /// Whether the register itself lets the BAR decode; only the ROM's has a say.
    pub fn is_enabled(&self, index: usize) -> bool {
        let register = self.registers.get(index);
        index != ROM || register.is_some_and(|r| r.value & rom::ENABLE != 0)
    }

    /// The BARs and the ROM with their indices and addresses.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Bar, u64)> {
        (0..REGISTER_COUNT).filter_map(|i| Some((i, self.get(i)?, self.address(i)?)))
    }

    /// Power-on: no BAR has an address, and the ROM is off.
    pub fn clear(&mut self) {
        for register in &mut self.registers {
            register.value &= !register.writable;
        }
    }
}

/// The kind that the low bits of a register say. Bit 0 comes first: in an I/O BAR the next bits
/// are no type. Of the types, 01 (below 1 MiB, long gone) and 11 (reserved) count as 32-bit.
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
