//! Each target from a few figures.

use super::*;
use crate::results::Key;

/// Adds one figure.
fn add(
    results: &mut Results,
    part: u8,
    work: &str,
    at: Option<(&str, f64)>,
    quantity: &str,
    subject: &str,
    sample: f64,
) {
    let key = Key {
        part,
        work,
        at,
        quantity: (quantity, "ms"),
    };
    results.add(&key, subject, sample);
}

fn found<'a>(all: &'a [Target], begin: &str) -> (&'static str, &'a str) {
    let target = all.iter().find(|t| t.target.starts_with(begin)).unwrap();
    (target.word(), &target.figure)
}

#[test]
fn what_was_not_measured_is_said_to_be_so() {
    let all = targets(&Results::default());
    assert_eq!(all.len(), 20);
    assert!(all.iter().all(|t| t.reached.is_none() && t.figure == "-"));
}

#[test]
fn starts_are_held_against_the_floor_and_every_peer() {
    let mut results = Results::default();
    let at = Some(("MiB", 512.0));
    for (subject, ms) in [
        (SUBJECT, 3.0),
        (UNCONFINED, 3.5),
        (FLOOR, 2.5),
        ("a", 6.0),
        ("b", 2.0),
    ] {
        add(&mut results, 1, START, at, "time", subject, ms);
    }
    let all = targets(&results);
    assert_eq!(
        found(&all, "first instruction without the sandbox"),
        ("no", "×1.40: 3.50 ms, 2.50 ms")
    );
    assert_eq!(
        found(&all, "first instruction at most"),
        ("yes", "×1.20: 3.00 ms, 2.50 ms")
    );
    let told = "×1.50 of b's, ×0.500 of a's";
    assert_eq!(found(&all, "first instruction before"), ("no", told));
}

#[test]
fn the_disks_share_may_be_opening_and_filling() {
    let mut results = Results::default();
    for (work, quantity, subject, ms) in [
        (BOOT_WITH_DISK, DISK_ALONE, SUBJECT, 400.0),
        (BOOT_WITH_DISK, "phase open device", SUBJECT, 110.0),
        // Filling the RAM waited for the rest of the start.
        (BOOT_WITH_DISK, "phase populate ram", SUBJECT, 900.0),
        (BOOT_RAM, FILLED, FLOORS[0].1, 300.0),
    ] {
        add(&mut results, 2, work, None, quantity, subject, ms);
    }
    let all = targets(&results);
    assert_eq!(
        found(&all, "the disk's share"),
        ("yes", "400 ms of 430 ms (110 + 300 + 20)")
    );
    // The bare calls took longer than the phase.
    for _ in 0..2 {
        add(&mut results, 2, BOOT_RAM, None, FILLED, FLOORS[0].1, 1000.0);
    }
    let all = targets(&results);
    assert_eq!(
        found(&all, "the disk's share"),
        ("yes", "400 ms of 1030 ms (110 + 900 + 20)")
    );
}

#[test]
fn one_round_with_an_exit_is_no_run_without() {
    let mut results = Results::default();
    for work in [ONE_AT_A_TIME, SIDE_BY_SIDE, IN_ORDER] {
        for _ in 0..3 {
            add(&mut results, 3, work, None, EXITS_TO_VMM, SUBJECT, 0.0);
        }
    }
    let begin = "no exit to the VMM for any read";
    assert_eq!(found(&targets(&results), begin).0, "yes");
    add(
        &mut results,
        3,
        ONE_AT_A_TIME,
        None,
        EXITS_TO_VMM,
        SUBJECT,
        2.0,
    );
    let all = targets(&results);
    let (reached, told) = found(&all, begin);
    assert!(reached == "no" && told.starts_with("2.00, 0, 0 "), "{told}");
}

#[test]
fn exits_for_no_interrupt_are_of_each_round() {
    let mut results = Results::default();
    for (quantity, samples) in [
        (EXITS_TO_KVM, [1.0, 2.0, 3.0]),
        (HOST_INTERRUPTS, [0.97, 0.5, 2.97]),
        (WINDOWS, [0.0, 1.47, 0.0]),
        // The difference of the medians would be 1.03.
        (OTHER_EXITS, [0.03, 0.03, 0.03]),
    ] {
        for sample in samples {
            add(
                &mut results,
                3,
                ONE_AT_A_TIME,
                None,
                quantity,
                NATIVE,
                sample,
            );
        }
    }
    let all = targets(&results);
    let (reached, told) = found(&all, "with `idle=native`");
    assert!(reached == "yes" && told.contains("0.030 others"), "{told}");
}

#[test]
fn maps_are_held_against_the_best_of_the_bare_calls() {
    let mut results = Results::default();
    for pages in PAGES {
        let work = format!("1 GiB of RAM, {pages} pages");
        for (subject, ms) in [(SUBJECT, 11.0), (FLOORS[0].1, 10.0), (FLOORS[1].1, 30.0)] {
            add(&mut results, 4, &work, None, "mapped", subject, ms);
        }
    }
    assert_eq!(found(&targets(&results), "mapping").0, "yes");
    let work = "1 GiB of RAM, 2 MiB pages";
    let other = "mapped, filled by 2 threads";
    add(&mut results, 4, work, None, other, FLOORS[0].1, 5.0);
    let all = targets(&results);
    let (reached, told) = found(&all, "mapping");
    assert!(reached == "no" && told.contains("×2.20 (2 MiB)"), "{told}");
}

#[test]
fn growth_is_told_beside_the_bare_calls() {
    let mut results = Results::default();
    for (subject, each) in [(SUBJECT, 1.0), (FLOOR, 2.0)] {
        for n in [1.0, 2.0, 4.0] {
            let at = Some(("vCPUs", n));
            add(
                &mut results,
                5,
                START,
                at,
                "time",
                subject,
                10.0 + each * (n - 1.0),
            );
            let at = Some(("MiB", n * 1024.0));
            add(
                &mut results,
                5,
                START_IN_LAB,
                at,
                "time",
                subject,
                100.0 + each * n,
            );
        }
    }
    let all = targets(&results);
    assert_eq!(
        found(&all, "start with 4 vCPUs"),
        ("no", "×1.30; bare calls ×1.60")
    );
    let told = "×0.812: ×1.30 and ×1.60 (3.00 and 6.00 ms more)";
    assert_eq!(found(&all, "start grows from 1 vCPU"), ("yes", told));
    let told = "1.00 ms for each GiB of at most 3.22 ms; bare calls 2.00 ms";
    let steep: Vec<_> = all
        .iter()
        .filter(|t| t.target.starts_with("start grows with memory"))
        .collect();
    assert_eq!((steep[1].word(), steep[1].figure.as_str()), ("yes", told));
}

#[test]
fn flat_is_no_steeper_than_flat() {
    for (ours, floor, word) in [
        (0.0, 0.0, "yes"),
        (0.9, -2.0, "yes"),
        (1.5, 0.0, "no"),
        (1.5, -2.0, "no"),
        (11.5, 10.0, "yes"),
        (13.0, 10.0, "no"),
    ] {
        let mut results = Results::default();
        for (subject, each) in [(SUBJECT, ours), (FLOOR, floor)] {
            for gib in [0.0, 1.0, 2.0] {
                let at = Some(("MiB", gib * 1024.0));
                let ms = 100.0 + each * gib;
                add(&mut results, 5, START, at, "time", subject, ms);
            }
        }
        let all = targets(&results);
        assert_eq!(
            found(&all, "start grows with memory").0,
            word,
            "{ours} {floor}"
        );
    }
}
