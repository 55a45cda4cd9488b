//! The traced program makes the same calls as the untraced one. The witness is the kernel's own
//! record of calls (raw_syscalls of tracefs), which is no part of the tracer.

use std::collections::BTreeMap;

use super::kernel::{TRACEFS, reading_guest, said, with_tracefs};
use crate::common::elf::TempFile;
use crate::common::witness::{WITNESSED, counts, difference};
use crate::kvm;
use crate::process::PROGRAM;

/// An instance of tracefs, which goes in any case.
const INSTANCE: &str = "\
w=$TRACEFS/instances/mini-vmm-witness-$$
mkdir $w || exit
trap 'rmdir $w' EXIT
";

/// Runs a program three times: untraced, traced, and untraced again.
const SCRIPT: &str = "\
witnessed \"$2\" \"$PROGRAM\" --kernel \"$1\" --memory 64M
witnessed \"$3\" \"$PROGRAM-trace\" -o /dev/null -- \"$PROGRAM\" --kernel \"$1\" --memory 64M
witnessed \"$4\" \"$PROGRAM\" --kernel \"$1\" --memory 64M
";

#[test]
fn tracing_changes_no_call() {
    if !kvm() {
        return;
    }
    let mut differences = Vec::new();
    // A process may have made a call less when it ends: another three runs tell that from a tracer
    // that changes calls.
    for _ in 0..3 {
        let Some([plain, traced, again]) = three_runs() else {
            return;
        };
        assert!(
            plain.len() > 40 && plain.values().sum::<u64>() > 200,
            "{plain:?}"
        );
        // Two untraced runs show that the comparison is fair.
        let untraced = difference(&plain, &again);
        let by_tracing = difference(&plain, &traced);
        if untraced.is_empty() && by_tracing.is_empty() {
            return;
        }
        differences.push((untraced, by_tracing));
    }
    panic!("between untraced runs, and by tracing, in three tries: {differences:?}");
}

/// The calls of an untraced run, of a traced run, and of an untraced run again.
fn three_runs() -> Option<[BTreeMap<String, u64>; 3]> {
    let guest = reading_guest(100);
    let out = [(); 3].map(|()| TempFile::new(b""));
    let mut paths = vec![guest.path().display().to_string()];
    paths.extend(out.iter().map(|file| file.path().display().to_string()));
    let script = format!("TRACEFS={TRACEFS}\nPROGRAM='{PROGRAM}'\n{INSTANCE}{WITNESSED}{SCRIPT}");
    let arguments: Vec<_> = paths.iter().map(String::as_str).collect();
    let output = with_tracefs(&script, &arguments)?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        !said.contains("overrun"),
        "the witness has lost calls: {said}"
    );
    // The second of the three.
    let started = said.split("started ").nth(2).unwrap_or_default();
    let tracer = started.split_whitespace().next().expect("a number");
    let text = |file: &TempFile| std::fs::read_to_string(file.path()).unwrap();
    Some(out.map(|file| counts(&text(&file), Some(tracer))))
}
