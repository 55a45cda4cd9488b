//! The most important rows of a run. `bench readme` writes them between two marks in
//! docs/benchmarks.md.

use std::fmt::Write;

use crate::error::{Error, Result};
use crate::figures::cell;
use crate::names::SUBJECT;
use crate::report::markdown::{targets, with_ratio};
use crate::results::{Measure, Results};

/// Titles of rows (`Key::title`), and their names in the summary.
const ROWS: [(&str, &str); 24] = [
    (
        "first instruction, 512 MiB: time",
        "process start to the guest's first instruction, 512 MiB",
    ),
    ("first instruction, 16384 MiB: time", "the same, 16 GiB"),
    (
        "memory of the VMM itself: private",
        "memory of the VMM itself",
    ),
    (
        "boot with an NVMe disk: to /init",
        "process start to `/init`, one NVMe disk",
    ),
    (
        "boot without a device: to /init",
        "the same without a device",
    ),
    (
        "boot with an NVMe disk: exits to the VMM, ports",
        "exits to the VMM in that boot with the disk, ports (others': at most so many)",
    ),
    (
        "boot with an NVMe disk: port accesses that left the guest (KVM's io_exits)",
        "port accesses in that boot that left the guest",
    ),
    (
        "boot with an NVMe disk: exits to the VMM, MMIO",
        "exits to the VMM in that boot, MMIO",
    ),
    (
        "boot with an NVMe disk behind a root port: exits to the VMM, ports",
        "exits to the VMM, ports, with the disk behind a root port",
    ),
    (
        "boot with an NVMe disk behind a root port: exits to the VMM, MMIO",
        "MMIO, with the disk behind a root port",
    ),
    (
        "boot with an NVMe disk behind a root port, one empty port: exits to the VMM, ports",
        "ports, with one empty port more",
    ),
    (
        "boot with an NVMe disk behind a root port, one empty port: exits to the VMM, MMIO",
        "MMIO, with one empty port more",
    ),
    (
        "boot with an NVMe disk: memory of the VMM itself, private",
        "memory of the VMM itself with the disk",
    ),
    (
        "random 4 KiB reads, one at a time: latency, median",
        "4 KiB reads one at a time, median",
    ),
    (
        "random 4 KiB reads, one at a time: latency, 99th of 100",
        "the same, 99th of 100",
    ),
    (
        "random 4 KiB reads, one at a time: exits to the VMM for all reads",
        "exits to the VMM for all of them (others': at most so many)",
    ),
    (
        "random 4 KiB reads, one at a time: exits to KVM for each read",
        "exits to KVM for each",
    ),
    (
        "random 4 KiB reads, 32 at a time: reads a second",
        "4 KiB reads 32 at a time, each second",
    ),
    (
        "128 KiB reads in order: throughput",
        "128 KiB reads in order",
    ),
    (
        "1 GiB of RAM, 4 KiB pages: mapped",
        "1 GiB mapped for DMA, 4 KiB pages",
    ),
    (
        "1 GiB of RAM, transparent huge pages: mapped",
        "1 GiB mapped for DMA, transparent huge pages",
    ),
    (
        "1 GiB of RAM, 2 MiB pages: mapped",
        "1 GiB mapped for DMA, 2 MiB pages",
    ),
    (
        "1 GiB of RAM, 1 GiB pages: mapped",
        "1 GiB mapped for DMA, 1 GiB pages",
    ),
    (
        "reset to first instruction, one NVMe disk: time",
        "reset to the first instruction, one NVMe disk",
    ),
];

const BEGIN: &str = "<!-- bench: begin -->\n";
const END: &str = "<!-- bench: end -->\n";

/// The tables, under a line with date, commit and machine.
pub fn summary(results: &Results) -> String {
    let about = |name: &str| results.about.get(name).map_or("?", String::as_str);
    let mut text = format!(
        "{} (UTC), commit {};\n{}, Linux {};\n{}.\n\n\
         | | {SUBJECT} | others; × is {SUBJECT}'s for each of theirs |\n\
         | --- | --- | --- |\n",
        results.date,
        about("commit"),
        about("machine"),
        about("kernel"),
        about("QEMU"),
    );
    let rows: Vec<Vec<&Measure>> = results
        .parts()
        .into_iter()
        .flat_map(|part| results.rows(part))
        .collect();
    for (title, name) in ROWS {
        let Some(row) = rows.iter().find(|row| row[0].row().title() == title) else {
            continue;
        };
        let ours = row.iter().find(|measure| measure.subject == SUBJECT);
        let Some(ours) = ours else {
            continue;
        };
        let others: Vec<String> = row
            .iter()
            .filter(|measure| measure.subject != SUBJECT)
            .map(|measure| format!("{} {}", measure.subject, with_ratio(row, measure)))
            .collect();
        let _ = writeln!(text, "| {name} | {} | {} |", cell(ours), others.join("; "));
    }
    let _ = write!(text, "\n{}", targets(results));
    text
}

/// Returns the document with this summary in place of the earlier summary.
pub fn put_into(document: &str, summary: &str) -> Result<String> {
    let parts = document
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        return Err(Error::new(format!(
            "the document has no lines {} and {}",
            BEGIN.trim_end(),
            END.trim_end()
        )));
    };
    Ok(format!("{before}{BEGIN}{summary}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Key;

    #[test]
    fn known_rows_are_told_and_others_left_out() {
        let mut results = Results::default();
        for (work, subject, sample) in [
            ("first instruction", SUBJECT, 3.0),
            ("first instruction", "peer", 6.0),
            ("something else", SUBJECT, 1.0),
        ] {
            let key = Key {
                part: 1,
                work,
                at: Some(("MiB", 512.0)),
                quantity: ("time", "ms"),
            };
            results.add(&key, subject, sample);
        }
        let text = summary(&results);
        let row = "| process start to the guest's first instruction, 512 MiB | 3.00 ms \
                   | peer 6.00 ms, ×0.500 |";
        assert!(text.contains(row), "{text}");
        assert!(!text.contains("something"), "{text}");
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let document = format!("a\n{BEGIN}old\n{END}b\n");
        let new = put_into(&document, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}new\n{END}b\n"));
        assert!(put_into("a\n", "new\n").is_err());
    }
}
