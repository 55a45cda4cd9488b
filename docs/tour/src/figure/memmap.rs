//! Reads the memory map that guests/memmap.s prints, for the figure `map`.

use std::fmt::Write;

/// The kinds of ranges (ACPI 6.5, 15.4).
const KINDS: [(u32, &str); 3] = [(1, "RAM"), (2, "reserved"), (3, "ACPI tables")];
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A line `START - LAST SIZE UNIT KIND` for each line of five dwords: start, size, type.
///
/// # Errors
/// A line that is no range.
pub fn ranges(data: &str) -> Result<String, String> {
    let mut lines = String::new();
    for line in data.lines() {
        let dwords = line.split_whitespace().map(|w| u32::from_str_radix(w, 16));
        let dwords: Vec<_> = dwords.collect::<Result<_, _>>().unwrap_or_default();
        let [start_high, start, size_high, size, kind] = dwords[..] else {
            return Err(format!("`{line}` has not five dwords"));
        };
        let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let (start, size) = (wide(start_high, start), wide(size_high, size));
        let kind = KINDS.iter().find(|(number, _)| *number == kind);
        let (_, kind) = kind.ok_or_else(|| format!("`{line}` has no known type"))?;
        let last = size.checked_sub(1).and_then(|more| start.checked_add(more));
        let last = last.ok_or_else(|| format!("`{line}` is empty"))?;
        let (count, unit) = match size {
            size if size % MIB == 0 => (size / MIB, "MiB"),
            size => (size / KIB, "KiB"),
        };
        let _ = writeln!(lines, "{start:#x} - {last:#x} {count} {unit} {kind}");
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_64_bits_are_put_together() {
        let line = "00000001 00000000 00000000 00100000 00000001 \n";
        assert_eq!(
            ranges(line).as_deref(),
            Ok("0x100000000 - 0x1000fffff 1 MiB RAM\n")
        );
        for wrong in [
            "1 2 3",
            "0 0 0 1 9",
            "0 0 0 0 1",
            "ffffffff ffffffff 0 2 1",
            "x",
        ] {
            assert!(ranges(wrong).is_err(), "{wrong}");
        }
    }
}
