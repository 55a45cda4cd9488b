//! What the guest has read from and written to the configuration space of one function.

use pci::regs;

use crate::guest::capability_names;
use crate::guest::config_names::{self, Header};
use crate::guest::nvme::Nvme;

const SPACE: usize = 4096;
/// The type 0 header's BARs.
pub const BARS: usize = 6;
const MSIX: u8 = 0x11;
/// The most capabilities of a list.
const MOST_CAPABILITIES: usize = 48;

/// A BAR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bar {
    value: u32,
    /// The answer to a read after all ones were written.
    mask: Option<u32>,
    sizing: bool,
}

/// A BAR that the guest has sized and located.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its number.
    pub bar: u8,
    /// Whether it is in port space.
    pub port: bool,
    /// The first port or address.
    pub start: u64,
    /// Its size.
    pub size: u64,
}

/// One function.
#[derive(Debug)]
pub struct Shadow {
    bytes: Box<[u8; SPACE]>,
    known: Box<[bool; SPACE]>,
    bars: [Bar; BARS],
    /// The MSI-X table's entries, as far as they were written.
    pub entries: Vec<[u32; 4]>,
    /// The controller, if the function is one.
    pub nvme: Nvme,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            bytes: Box::new([0; SPACE]),
            known: Box::new([false; SPACE]),
            bars: Default::default(),
            entries: Vec::new(),
            nvme: Nvme::default(),
        }
    }
}

impl Shadow {
    fn byte(&self, at: u16) -> Option<u8> {
        let at = usize::from(at);
        (*self.known.get(at)?).then(|| self.bytes.get(at).copied())?
    }

    fn number(&self, at: u16, len: u16) -> Option<u32> {
        (0..len).try_fold(0, |value, i| {
            Some(value | u32::from(self.byte(at.checked_add(i)?)?) << (8 * i))
        })
    }

    fn set(&mut self, at: u16, bytes: &[u8]) {
        for (at, byte) in (usize::from(at)..SPACE).zip(bytes) {
            self.bytes[at] = *byte;
            self.known[at] = true;
        }
    }

    /// What the header is of.
    fn header(&self) -> Header {
        match self.byte(regs::HEADER_TYPE).map(|kind| kind & 0x7f) {
            Some(0) => Header::Endpoint,
            Some(1) => Header::Bridge,
            _ => Header::Unknown,
        }
    }

    /// Whether the function is an NVMe controller.
    pub fn is_nvme(&self) -> bool {
        let class = [1, 2, 3].map(|i| self.byte(regs::REVISION + i));
        class == crate::guest::nvme::CLASS.map(Some)
    }

    /// The BAR that a register is, if it is accessed as one.
    fn bar(&self, register: u16, len: usize) -> Option<usize> {
        let index = register.checked_sub(regs::BAR)? / 4;
        // Only the first two are BARs in each header.
        let bars = match self.header() {
            Header::Endpoint => BARS,
            Header::Bridge | Header::Unknown => 2,
        };
        (register.is_multiple_of(4) && len == 4 && usize::from(index) < bars)
            .then_some(index.into())
    }

    /// Learns from the answer to a read. Whether a BAR was learned.
    pub fn read(&mut self, register: u16, bytes: &[u8]) -> bool {
        let Some(index) = self.bar(register, bytes.len()) else {
            // What changes by itself is not kept, but where a capability is does not change.
            self.set(register, bytes);
            return false;
        };
        let value = dword(bytes);
        let bar = &mut self.bars[index];
        match bar.sizing {
            true => bar.mask = Some(value),
            false => bar.value = value,
        }
        true
    }

    /// Learns from a write. Whether a BAR was learned.
    pub fn write(&mut self, register: u16, bytes: &[u8]) -> bool {
        let Some(index) = self.bar(register, bytes.len()) else {
            self.write_control(register, bytes);
            return false;
        };
        let value = dword(bytes);
        let bar = &mut self.bars[index];
        bar.sizing = value == u32::MAX;
        if !bar.sizing {
            bar.value = value;
        }
        true
    }

    /// Only the bytes that the guest owns are as written.
    fn write_control(&mut self, register: u16, bytes: &[u8]) {
        if register == regs::COMMAND {
            self.set(register, bytes.get(..2).unwrap_or(bytes));
        }
    }

    /// Whether the BAR at this register is being sized.
    pub fn is_sizing(&self, register: u16) -> bool {
        self.bar(register, 4)
            .is_some_and(|index| self.bars[index].sizing)
    }

    /// The BARs: number, whether of ports, the low half and, of 64 bits, the high half.
    fn whole(&self) -> Vec<(usize, bool, Bar, Option<Bar>)> {
        let mut all = Vec::new();
        let mut index = 0;
        while let Some(bar) = self.bars.get(index) {
            let kind = bar.mask.unwrap_or(bar.value);
            let port = kind & 1 != 0;
            let wide = !port && kind & 6 == 4;
            let high = self.bars.get(index + 1).filter(|_| wide);
            all.push((index, port, *bar, high.copied()));
            index += 1 + usize::from(wide);
        }
        all
    }

    /// What the answer to a read of a BAR says after all ones were written to the BAR.
    pub fn sized(&self, register: u16) -> Option<String> {
        let index = self.bar(register, 4)?;
        let all = self.whole();
        let (low, port, bar, high) = all.iter().rfind(|(low, ..)| *low <= index)?;
        let size = size(*bar, *port, *high).map(|size| format!("size {size:#x}"));
        match (index == *low, size) {
            (true, size) => size,
            (false, Some(size)) => Some(format!("upper half of BAR{low}, {size}")),
            (false, None) => Some(format!("upper half of BAR{low}")),
        }
    }

    /// The BARs of which start and size are known.
    pub fn located(&self) -> Vec<Located> {
        let whole = self.whole().into_iter();
        let located = whole.filter_map(|(index, port, bar, high)| {
            let (start, size) = extent(bar, port, high)?;
            let bar = index as u8;
            Some(Located {
                bar,
                port,
                start,
                size,
            })
        });
        located.collect()
    }

    /// The capabilities: offset and ID, in the order of their list.
    fn capabilities(&self) -> Vec<(u16, u8)> {
        let mut all = Vec::new();
        let mut at = self.byte(regs::CAPABILITIES);
        while let Some(start) = at.map(|at| u16::from(at & !3)).filter(|at| *at >= 0x40) {
            let Some(id) = self.byte(start) else {
                break;
            };
            all.push((start, id));
            if all.len() == MOST_CAPABILITIES {
                break;
            }
            at = self.byte(start + 1);
        }
        all
    }

    /// BAR, offset, and number of entries of the MSI-X table.
    pub fn msix_table(&self) -> Option<(u8, u64, u16)> {
        let capabilities = self.capabilities();
        let (at, _) = capabilities.iter().find(|(_, id)| *id == MSIX)?;
        let entries = (self.number(at + 2, 2)? & 0x7ff) as u16 + 1;
        let table = self.number(at + 4, 4)?;
        Some(((table & 7) as u8, u64::from(table & !7), entries))
    }

    /// The name of a register.
    pub fn name(&self, register: u16) -> String {
        let header = self.header();
        if let Some(name) = config_names::header(register, header) {
            return name;
        }
        let unnamed = || match register {
            0..0x40 if header == Header::Unknown => format!("header +{register:#x}"),
            0..0x40 => format!("reserved +{register:#x}"),
            // The capability that has it is not known, or it has none (PCI Local Bus 3.0, 6.1).
            0x40..0x100 => format!("device-specific +{register:#x}"),
            _ => format!("extended +{register:#x}"),
        };
        match register {
            0x40..0x100 => {
                let capabilities = self.capabilities();
                let before = capabilities.iter().filter(|(at, _)| *at <= register);
                before.max().map_or_else(unnamed, |(at, id)| {
                    let control = self.number(at + 2, 2).map(|word| word as u16);
                    capability_names::standard(*id, register - at, control)
                })
            }
            0x100.. => self.extended(register).unwrap_or_else(unnamed),
            _ => unnamed(),
        }
    }

    /// The name of a register of an extended capability.
    fn extended(&self, register: u16) -> Option<String> {
        let mut at = 0x100;
        let mut found = None;
        for _ in 0..MOST_CAPABILITIES {
            let header = self.number(at, 4).filter(|header| *header != 0);
            let Some(header) = header else {
                break;
            };
            if at <= register && found.is_none_or(|(start, _)| start < at) {
                found = Some((at, header as u16));
            }
            at = (header >> 20) as u16 & 0xffc;
            if at < 0x100 {
                break;
            }
        }
        let (start, id) = found?;
        Some(capability_names::extended(id, register - start))
    }
}

fn dword(bytes: &[u8]) -> u32 {
    let mut value = [0; 4];
    for (byte, from) in value.iter_mut().zip(bytes) {
        *byte = *from;
    }
    u32::from_le_bytes(value)
}

/// The bits of a BAR that are no address.
fn flags(port: bool) -> u32 {
    if port { 3 } else { 0xf }
}

/// The size of a BAR, by what was read after all ones were written. Before the upper half of a wide
/// one is read, the BAR has 4 GiB at most if the lower half has a bit.
fn size(low: Bar, port: bool, high: Option<Bar>) -> Option<u64> {
    let below = low.mask.filter(|mask| *mask != 0)? & !flags(port);
    let above = match high {
        Some(high) => high.mask.or((below != 0).then_some(u32::MAX))?,
        None => u32::MAX,
    };
    // A BAR of ports may leave the upper half zero.
    let below = if port { below | u32::MAX << 16 } else { below };
    let size = (!(u64::from(below) | u64::from(above) << 32)).wrapping_add(1);
    (size != 0 && (below != 0 || high.is_some())).then_some(size)
}

/// Start and size of a BAR, and of the upper half of a wide one.
fn extent(low: Bar, port: bool, high: Option<Bar>) -> Option<(u64, u64)> {
    let upper = match high {
        Some(high) => {
            high.mask?;
            u64::from(high.value) << 32
        }
        None => 0,
    };
    let start = u64::from(low.value & !flags(port)) | upper;
    let size = size(low, port, high)?;
    (start != 0 && start.checked_add(size).is_some()).then_some((start, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(shadow: &mut Shadow, register: u16, mask: u32, value: u32) {
        shadow.write(register, &[0xff; 4]);
        assert!(shadow.is_sizing(register));
        shadow.read(register, &mask.to_le_bytes());
        shadow.write(register, &value.to_le_bytes());
        assert!(!shadow.is_sizing(register));
    }

    #[test]
    fn bars_are_sized_and_located() {
        let mut shadow = Shadow::default();
        shadow.read(regs::HEADER_TYPE, &[0x80]);
        shadow.read(regs::BAR, &0xfe00_0004u32.to_le_bytes());
        assert!(shadow.located().is_empty());
        size(&mut shadow, regs::BAR, 0xffff_c004, 0xfe00_0004);
        size(&mut shadow, regs::BAR + 4, 0xffff_ffff, 0x80);
        size(&mut shadow, regs::BAR + 8, 0xffff_ffe1, 0xc001);
        let [memory, port] = shadow.located()[..] else {
            panic!("{:?}", shadow.located());
        };
        assert_eq!((memory.start, memory.size), (0x80_fe00_0000, 0x4000));
        assert_eq!(
            (port.start, port.size, port.port, port.bar),
            (0xc000, 0x20, true, 2)
        );
    }

    #[test]
    fn a_size_is_that_of_the_whole_bar() {
        let mut shadow = Shadow::default();
        shadow.read(regs::HEADER_TYPE, &[0]);
        let mut answer = |at: u16, mask: u32| {
            shadow.write(regs::BAR + at, &[0xff; 4]);
            shadow.read(regs::BAR + at, &mask.to_le_bytes());
            shadow.sized(regs::BAR + at).unwrap_or_default()
        };
        assert_eq!(answer(0, 0xffff_c004), "size 0x4000");
        assert_eq!(answer(4, 0xffff_ffff), "upper half of BAR0, size 0x4000");
        // 64 GiB, which the lower half alone does not say.
        assert_eq!(answer(8, 0xc), "");
        assert_eq!(
            answer(12, 0xffff_fff0),
            "upper half of BAR2, size 0x1000000000"
        );
        // Ports, without the upper half.
        assert_eq!(answer(0, 0xffe1), "size 0x20");
        assert_eq!(answer(0, 0xffff_ff01), "size 0x100");
        assert_eq!(answer(0, 0), "");
        assert_eq!(answer(4, 0xfff0_0000), "size 0x100000");
    }

    #[test]
    fn the_msix_table_is_found_by_what_was_read() {
        let mut shadow = Shadow::default();
        shadow.read(regs::CAPABILITIES, &[0x40]);
        assert_eq!(shadow.name(0x42), "device-specific +0x42");
        assert_eq!(shadow.name(0x38), "header +0x38");
        shadow.read(regs::HEADER_TYPE, &[0]);
        assert_eq!(shadow.name(0x38), "reserved +0x38");
        shadow.read(0x40, &[0x01, 0x50]);
        shadow.read(0x50, &[0x11, 0x40]);
        assert_eq!(shadow.msix_table(), None);
        shadow.read(0x52, &[0x40, 0]);
        shadow.read(0x54, &[0x03, 0x20, 0, 0]);
        assert_eq!(shadow.msix_table(), Some((3, 0x2000, 65)));
        assert_eq!(shadow.name(0x52), "MSI-X message control");
        assert_eq!(shadow.name(0x44), "power management PMCSR");
        shadow.read(0x100, &[0x01, 0, 0x01, 0x20]);
        assert_eq!(shadow.name(0x104), "AER uncorrectable error status");
    }

    /// Registers 0x18 to 0x33 are BARs of a device, and windows of a bridge.
    #[test]
    fn a_window_of_a_bridge_is_no_bar_before_the_header_type_is_read() {
        let mut shadow = Shadow::default();
        shadow.write(regs::BAR + 16, &[0xff; 4]);
        assert!(!shadow.is_sizing(regs::BAR + 16));
        assert_eq!(shadow.name(regs::BAR + 16), "header +0x20");
        shadow.read(regs::HEADER_TYPE, &[1]);
        assert_eq!(shadow.name(regs::BAR + 16), "memory base");
        shadow.read(regs::HEADER_TYPE, &[0]);
        assert_eq!(shadow.name(regs::BAR + 16), "BAR4");
    }

    #[test]
    fn no_bytes_panic_or_loop() {
        let mut shadow = Shadow::default();
        for byte in [0xff, 0x41, 0x00] {
            for at in 0..SPACE as u16 {
                shadow.read(at, &[byte; 8]);
                shadow.write(at, &[byte; 8]);
            }
            for at in (0..=u16::MAX).step_by(3) {
                shadow.name(at);
            }
            shadow.msix_table();
            shadow.located();
        }
    }
}
