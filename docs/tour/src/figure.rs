//! Figures, drawn from what commands print.
//!
//! | kind | lines of the data | what is drawn |
//! | --- | --- | --- |
//! | `chain` | names of open files | which file each was made from, by which call |
//! | `columns` | exits, as the machine in forty lines prints them | who acts when |
//! | `bars` | `COUNT NAME` | a bar for each line |
//! | `map` | `START - LAST SIZE UNIT NAME`, rising | an address space, with what is empty |
//! | `memmap` | what guests/memmap.s prints | the same |
//! | `groups` | lines of `mini-vmm host list --json` | the IOMMU groups |
//! | `ladder` | a trace | the files, and which call makes or connects which |
//! | `sides` | slots and maps of a trace | who reaches the memory of a process |
//! | `header` | sixteen dwords, in hexadecimal | the fields of a function's header |

mod groups;
mod ladder;
mod memmap;
mod sides;

use std::fmt::Write;

/// Draws `data` as `kind`.
///
/// # Errors
/// There is no such kind, or the data are not of it.
pub fn draw(kind: &str, data: &str) -> Result<String, String> {
    match kind {
        "chain" => chain(data),
        "columns" => columns(data),
        "bars" => bars(data),
        "header" => header(data),
        "map" => map(data),
        "memmap" => map(&memmap::ranges(data)?),
        "groups" => groups::groups(data),
        "sides" => sides::sides(data),
        "ladder" => ladder::ladder(data),
        _ => Err(format!("`{kind}` is no kind of figure")),
    }
}

/// The call that makes an open file, of those that a chain has.
fn made_by(name: &str) -> Option<&'static str> {
    let calls = [
        ("/dev/kvm", "open"),
        ("anon_inode:kvm-vm", "KVM_CREATE_VM"),
        ("anon_inode:kvm-vcpu:", "KVM_CREATE_VCPU"),
    ];
    let call = calls.iter().find(|(start, _)| name.starts_with(start));
    call.map(|(_, call)| *call)
}

fn chain(data: &str) -> Result<String, String> {
    let mut drawn = String::new();
    for name in data.lines() {
        let call = made_by(name).ok_or_else(|| format!("`{name}` is made by no known call"))?;
        let width = name.chars().count();
        let line = "─".repeat(width + 2);
        let _ = write!(
            drawn,
            "    │ {call}\n    ▼\n┌{line}┐\n│ {name} │\n└{line}┘\n"
        );
    }
    match drawn.is_empty() {
        true => Err("there is no open file".into()),
        false => Ok(drawn),
    }
}

/// What a line of the machine in forty lines tells: the guest's act, and KVM's reason.
fn exit(line: &str) -> Option<(&'static str, &'static str)> {
    let word = line.split([' ', ',']).next()?;
    Some(match word {
        "out" => ("out", "KVM_EXIT_IO"),
        "in" => ("in", "KVM_EXIT_IO"),
        "read" => ("load", "KVM_EXIT_MMIO"),
        "write" => ("store", "KVM_EXIT_MMIO"),
        "halt" => ("hlt", "KVM_EXIT_HLT"),
        _ => return None,
    })
}

fn columns(data: &str) -> Result<String, String> {
    let mut drawn = String::from("guest              KVM                     the program\n");
    drawn += "  │  ◀──────────── enters  ◀────────────── KVM_RUN\n";
    let mut exits = data.lines().peekable();
    while let Some(line) = exits.next() {
        let (act, reason) = exit(line).ok_or_else(|| format!("`{line}` is no exit"))?;
        let _ = writeln!(drawn, "  {act:<6} ─────────▶ {reason:<14} ───────▶ {line}");
        if exits.peek().is_some() {
            drawn += "  │  ◀──────────── enters  ◀────────────── KVM_RUN\n";
        }
    }
    Ok(drawn)
}

/// The longest bar.
const WIDTH: u64 = 16;

fn bars(data: &str) -> Result<String, String> {
    let row = |line: &str| -> Result<(u64, String), String> {
        let line = line.trim();
        let (count, name) = line.split_once(' ').unwrap_or((line, ""));
        let number = count
            .parse()
            .map_err(|_| format!("`{line}` has no count"))?;
        Ok((number, name.trim().to_owned()))
    };
    let rows: Vec<_> = data.lines().map(row).collect::<Result<_, _>>()?;
    let most = rows
        .iter()
        .map(|(count, _)| *count)
        .max()
        .unwrap_or(0)
        .max(1);
    let width = rows
        .iter()
        .map(|(_, name)| name.chars().count())
        .max()
        .unwrap_or(0);
    let digits = most.to_string().len();
    let mut drawn = String::new();
    for (count, name) in rows {
        let bar = "█".repeat((count * WIDTH).div_ceil(most) as usize);
        let _ = writeln!(drawn, "{name:<width$} {count:>digits$} {bar}");
    }
    match drawn.is_empty() {
        true => Err("there is nothing to draw".into()),
        false => Ok(drawn),
    }
}

/// The addresses and the text of a line such as `0xc0000000 - 0xdfffffff 512 MiB PCI window`.
fn range(line: &str) -> Option<(u64, u64, String)> {
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let mut words = line.split_whitespace();
    let (first, dash, last) = (words.next()?, words.next()?, words.next()?);
    let text: Vec<_> = words.collect();
    let range = (number(first)?, number(last)?, text.join(" "));
    (dash == "-" && range.0 <= range.1 && !text.is_empty()).then_some(range)
}

fn map(data: &str) -> Result<String, String> {
    let mut ranges: Vec<(u64, u64, String)> = Vec::new();
    for line in data.lines() {
        let range = range(line).ok_or_else(|| format!("`{line}` is no range"))?;
        match ranges.last() {
            // A part of the range before.
            Some(before) if range.1 <= before.1 => {}
            Some(before) if range.0 <= before.1 => {
                return Err(format!("`{line}` overlaps the range before"));
            }
            _ => ranges.push(range),
        }
    }
    let mut drawn = String::new();
    let mut above = None;
    for (start, last, name) in ranges.iter().rev() {
        if above.is_some_and(|above| last + 1 < above) {
            drawn += "             ╎ (empty: each access is an exit)\n";
        }
        let _ = writeln!(
            drawn,
            "{last:#12x} ┌\n             │ {name}\n{start:#12x} └"
        );
        above = Some(*start);
    }
    match drawn.is_empty() {
        true => Err("there is no range".into()),
        false => Ok(drawn),
    }
}

/// A field of a header: offset, bytes and name.
type Field = (usize, usize, &'static str);

/// Fields of both kinds of header (PCI Express 6.0, 7.5.1.1).
const COMMON: [Field; 10] = [
    (0x00, 2, "vendor"),
    (0x02, 2, "device"),
    (0x04, 2, "COMMAND"),
    (0x06, 2, "STATUS"),
    (0x08, 1, "revision"),
    (0x09, 3, "class"),
    (0x0c, 1, "cache line"),
    (0x0d, 1, "latency timer"),
    (0x0e, 1, "header type"),
    (0x34, 1, "first capability"),
];

/// Fields of a bridge (7.5.1.3).
const BRIDGE: [Field; 14] = [
    (0x10, 4, "BAR 0"),
    (0x14, 4, "BAR 1"),
    (0x18, 1, "its own bus"),
    (0x19, 1, "the bus behind it"),
    (0x1a, 1, "the last bus behind it"),
    (0x1c, 1, "ports: base"),
    (0x1d, 1, "ports: limit"),
    (0x20, 2, "memory: base"),
    (0x22, 2, "memory: limit"),
    (0x24, 2, "prefetchable: base"),
    (0x26, 2, "prefetchable: limit"),
    (0x28, 4, "upper half of that base"),
    (0x2c, 4, "upper half of that limit"),
    (0x3d, 1, "interrupt pin"),
];

/// Fields of a device (7.5.1.2).
const DEVICE: [Field; 8] = [
    (0x10, 4, "BAR 0"),
    (0x14, 4, "BAR 1"),
    (0x18, 4, "BAR 2"),
    (0x1c, 4, "BAR 3"),
    (0x20, 4, "BAR 4"),
    (0x24, 4, "BAR 5"),
    (0x30, 4, "expansion ROM"),
    (0x3d, 1, "interrupt pin"),
];

fn header(data: &str) -> Result<String, String> {
    let dword = |line: &str| {
        let line = line.trim();
        let number = u32::from_str_radix(line, 16);
        number.map_err(|_| format!("`{line}` is no dword"))
    };
    let dwords: Vec<_> = data.lines().map(dword).collect::<Result<_, _>>()?;
    let bytes: Vec<u8> = dwords
        .iter()
        .flat_map(|dword| dword.to_le_bytes())
        .collect();
    if bytes.len() != 64 {
        return Err(format!("a header has 64 bytes, not {}", bytes.len()));
    }
    // Bit 7 says whether the device has more functions.
    let own: &[Field] = match bytes.get(0x0e).map(|byte| byte & 0x7f) {
        Some(0) => &DEVICE,
        Some(1) => &BRIDGE,
        kind => return Err(format!("{kind:?} is no kind of header")),
    };
    let mut fields: Vec<_> = COMMON.iter().chain(own).collect();
    fields.sort_unstable();
    let mut drawn = String::new();
    for (offset, size, name) in fields {
        let field = bytes.get(*offset..offset + size).unwrap_or_default();
        let value: String = field
            .iter()
            .rev()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let _ = writeln!(drawn, "0x{offset:02x} │ {value:>8} │ {name}");
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_count() {
        let drawn = draw("bars", "  4  read port\n  1  write\n").unwrap();
        let lengths: Vec<_> = drawn.lines().map(|l| l.matches('█').count()).collect();
        assert_eq!(lengths, [16, 4]);
        assert!(drawn.starts_with("read port 4 █") && drawn.contains("\nwrite     1 █"));
    }

    #[test]
    fn what_is_not_known_is_not_drawn() {
        for (kind, data) in [
            ("bars", ""),
            ("bars", "many exits"),
            ("chain", ""),
            ("chain", "/dev/null"),
            ("columns", "out 0x3f8\nwhat"),
            ("circles", "1"),
            ("header", "00081b36"),
            ("header", &"0002ffff\n".repeat(16)),
            ("header", "many"),
            ("map", ""),
            ("map", "0x1000 - 0xfff 4 KiB RAM"),
            ("map", "0x0 - 0x1fff RAM\n0x1000 - 0x2fff ROM"),
            ("map", "RAM"),
        ] {
            assert!(draw(kind, data).is_err(), "{kind} {data:?}");
        }
    }
}
