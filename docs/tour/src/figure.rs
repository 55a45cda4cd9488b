//! Figures, drawn from what commands print.
//!
//! | kind | lines of the data | what is drawn |
//! | --- | --- | --- |
//! | `chain` | names of open files | which file each was made from, by which call |
//! | `columns` | exits, as the machine in forty lines prints them | who acts when |
//! | `bars` | `COUNT NAME` | a bar for each line |

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
const WIDTH: u64 = 40;

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
    let mut drawn = String::new();
    for (count, name) in rows {
        let bar = "█".repeat((count * WIDTH).div_ceil(most) as usize);
        let _ = writeln!(drawn, "{name:<width$} {bar} {count}");
    }
    match drawn.is_empty() {
        true => Err("there is nothing to draw".into()),
        false => Ok(drawn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_count() {
        let drawn = draw("bars", "  4  read port\n  1  write\n").unwrap();
        let lengths: Vec<_> = drawn.lines().map(|l| l.matches('█').count()).collect();
        assert_eq!(lengths, [40, 10]);
        assert!(drawn.starts_with("read port █") && drawn.ends_with(" 1\n"));
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
        ] {
            assert!(draw(kind, data).is_err(), "{kind} {data:?}");
        }
    }
}
