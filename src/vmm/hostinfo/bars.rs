//! The BARs of a device that is not open, from its file `resource` in sysfs
//! (Documentation/PCI/sysfs-pci.rst): for each BAR the first address, the last address, and the
//! kernel's flags (include/linux/ioport.h).

use std::fs;
use std::path::Path;

use pci::bar::{BAR_COUNT, Bar, BarKind, Bars};

const IO: u64 = 0x100;
const MEMORY: u64 = 0x200;
const PREFETCHABLE: u64 = 0x2000;
const MEMORY_64: u64 = 0x10_0000;

/// Reads the BARs of the device in the directory `dir`, without addresses and without the ROM.
/// `None` if the file does not tell.
pub fn read(dir: &Path) -> Option<Bars> {
    parse(&fs::read_to_string(dir.join("resource")).ok()?)
}

fn parse(text: &str) -> Option<Bars> {
    let mut bars = [None; BAR_COUNT];
    for (bar, line) in bars.iter_mut().zip(text.lines()) {
        let mut words = line.split_whitespace().map(|word| {
            let digits = word.strip_prefix("0x")?;
            u64::from_str_radix(digits, 16).ok()
        });
        let mut next = || words.next().flatten();
        let (first, last, flags) = (next()?, next()?, next()?);
        // A BAR without an address on the host has a size all the same.
        let size = last.checked_sub(first)?.checked_add(1)?;
        let prefetchable = flags & PREFETCHABLE != 0;
        let kind = match () {
            () if flags & IO != 0 => BarKind::Io,
            () if flags & MEMORY == 0 => continue,
            () if flags & MEMORY_64 != 0 => BarKind::Memory64 { prefetchable },
            () => BarKind::Memory32 { prefetchable },
        };
        *bar = Some(Bar { kind, size });
    }
    Bars::new(bars).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A display's: memory below 4 GiB, prefetchable memory above, and ports.
    const DISPLAY: &str = "\
0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200
0x000000e000000000 0x000000e00fffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x000000e010000000 0x000000e011ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x000000000000e000 0x000000000000e07f 0x0000000000040101
0x00000000000c0000 0x00000000000dffff 0x0000000000000212
";

    #[test]
    fn kinds_and_sizes_are_the_kernels() {
        let far = BarKind::Memory64 { prefetchable: true };
        let near = BarKind::Memory32 {
            prefetchable: false,
        };
        let bars = parse(DISPLAY).unwrap();
        let found: Vec<_> = bars
            .iter()
            .map(|(i, bar, _)| (i, bar.kind, bar.size))
            .collect();
        let expected = [
            (0, near, 16 << 20),
            (1, far, 256 << 20),
            (3, far, 32 << 20),
            (5, BarKind::Io, 128),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn nonsense_tells_nothing() {
        for text in [
            "0x1",
            "x y z",
            "0x2000 0x1000 0x200",
            "0x0 0xffffffffffffffff 0x200",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
        assert_eq!(parse("").unwrap().iter().count(), 0);
    }
}
