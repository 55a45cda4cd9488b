//! Judges a finished machine: whether the scenario passed, and whether the emulator failed. After a
//! failure of the emulator, the machine is started a second time.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::listen::Ended;
use crate::outcome::Outcome;
use crate::scenario::Scenario;

/// Checks that the scenario passed.
///
/// # Errors
/// A message about the first check that failed.
pub fn judge(scenario: &Scenario, outcome: &Outcome, timed_out: bool) -> Result<()> {
    if timed_out {
        return Err(Error::failed(format!(
            "the machine was still running after {} s, and the lab stopped it",
            scenario.limit.as_secs()
        )));
    }
    if let Some(line) = complaint(&outcome.dir.join("l1-kernel.log"), scenario.refusals) {
        return Err(Error::failed(format!("L1's kernel complains: {line}")));
    }
    let transcript = &outcome.transcript;
    for trouble in ["module-failed", "await-failed"] {
        if let Some(what) = transcript.lab(trouble).next() {
            return Err(Error::failed(format!("L1 said {trouble}: {what}")));
        }
    }
    match transcript.lab("script").next() {
        Some("0") => scenario.verify(outcome),
        Some(status) => Err(Error::failed(format!(
            "the L1 script failed with status {status}"
        ))),
        None => Err(Error::failed("L1 powered off before the end of its script")),
    }
}

/// Finds a line of L1's kernel that must not appear: an error of the kernel itself in any run, and
/// an IOMMU fault unless the scenario has `refusals`.
fn complaint(log: &Path, refusals: bool) -> Option<String> {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| {
            (!refusals && line.contains("DMAR:") && line.contains("fault"))
                || ["WARNING: ", "BUG: ", "Oops"]
                    .iter()
                    .any(|word| line.contains(word))
        })
        .map(|line| line.trim_end().to_owned())
}

/// Tells whether the emulator failed, so that the machine may be started a second time.
///
/// QEMU's emulation of nested SVM sometimes loses page tables, and sometimes executes half of an
/// instruction that the kernel is patching. Then either L1's kernel crashes, which no program in L1
/// can cause, or the machine hangs before the guest reaches /init. There is no second start after
/// an error of mini-vmm, after a guest's failure later than /init, or after an error message of the
/// kernel.
pub fn emulator_failed(ended: &Ended) -> bool {
    if !ended.timed_out {
        return ended.transcript.lab("script").next().is_none();
    }
    ended
        .transcript
        .runs()
        .last()
        .is_none_or(|run| !run.reached_init() && run.exit().is_none())
}

/// Tells whether a machine that has failed may be started a second time, because its emulator stood
/// still while a guest ran.
///
/// QEMU's emulation of nested SVM is not sound for guests with several CPUs: QEMU as a VMM inside
/// of it hangs as mini-vmm does, and interrupts seem to be lost. A guest with one CPU stands still
/// in one of fifty machines, in the middle of its text, and not again at the second start. Nobody
/// has shown yet that mini-vmm has no part in that. So such a guest is excused only if the machine
/// was silent to its end; each second start is told, and few are allowed.
pub fn stood_still(ended: &Ended) -> bool {
    let has_several = |command: &str| {
        let count = command.split_once("--cpus ").map(|(_, rest)| rest);
        let count = count.and_then(|rest| rest.split([' ', ',']).next());
        count.is_some_and(|count| count != "1")
    };
    let runs = ended.transcript.runs();
    ended.woken
        && runs.last().is_some_and(|run| {
            let silent = ended.timed_out && run.reached_init() && run.exit().is_none();
            silent || has_several(run.command())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{Line, Transcript};
    use std::time::Duration;

    fn ended(timed_out: bool, lines: &[&str]) -> Ended {
        let lines = lines.iter().map(|raw| Line::new(Duration::ZERO, raw));
        Ended {
            transcript: Transcript {
                lines: lines.collect(),
            },
            timed_out,
            woken: false,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_dma_fault_is_a_complaint_and_a_note_is_not() {
        let path = std::env::temp_dir().join(format!("lab-complaint-{}", std::process::id()));
        fs::write(
            &path,
            "[1.0] DMAR: IOMMU enabled\r\n[2.0] mtrr: your CPUs had inconsistent settings\r\n",
        )
        .unwrap();
        assert_eq!(complaint(&path, false), None);
        let fault = "[3.0] DMAR: [DMA Read NO_PASID] Request device [00:05.0] fault addr 0x1000";
        fs::write(&path, format!("[1.0] x\r\n{fault}\r\n")).unwrap();
        assert_eq!(complaint(&path, false).as_deref(), Some(fault));
        assert_eq!(complaint(&path, true), None);
        fs::write(&path, format!("{fault}\r\n[4.0] BUG: x\r\n")).unwrap();
        assert_eq!(complaint(&path, true).as_deref(), Some("[4.0] BUG: x"));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_emulator_that_stands_still_excuses_its_guest() {
        for (command, woken, excused) in [
            ("LAB: run mini-vmm --cpus 4 --kernel k", true, true),
            ("LAB: run mini-vmm --cpus 255,sockets=1", true, true),
            ("LAB: run mini-vmm --cpus 4 --kernel k", false, false),
            ("LAB: run mini-vmm --cpus 1 --kernel k", true, true),
            ("LAB: run mini-vmm --kernel k", true, true),
            ("LAB: run mini-vmm --kernel k", false, false),
        ] {
            let mut ended = ended(true, &[command, "L2| L2: init 6.1"]);
            ended.woken = woken;
            assert_eq!(stood_still(&ended), excused, "{command} {woken}");
        }
        // A guest with one CPU whose run has ended, or whose machine has.
        let run = ["LAB: run mini-vmm --kernel k", "L2| L2: init 6.1"];
        for (timed_out, lines) in [
            (true, &[run[0], run[1], "LAB: exit 1"][..]),
            (false, &run[..]),
        ] {
            let mut ended = ended(timed_out, lines);
            ended.woken = true;
            assert!(!stood_still(&ended), "{lines:?}");
        }
    }

    #[test]
    fn only_a_hang_before_init_and_a_broken_l1_are_tried_again() {
        let run = "LAB: run mini-vmm";
        let init = "L2| L2: init 6.1";
        for lines in [&[run, "L2| [0.1] rcu: stall"][..], &[]] {
            assert!(emulator_failed(&ended(true, lines)));
        }
        for lines in [[run, init], [run, "LAB: exit 1"]] {
            assert!(!emulator_failed(&ended(true, &lines)));
        }
        let start = "LAB: l1-kernel 6.1";
        for script in ["LAB: script 0", "LAB: script 1"] {
            let lines = [start, run, "LAB: exit 1", script];
            assert!(!emulator_failed(&ended(false, &lines)));
        }
        for lines in [&[start, run, init][..], &[]] {
            assert!(emulator_failed(&ended(false, lines)));
        }
    }

    #[test]
    fn a_machine_that_was_stopped_or_did_not_end_its_script_has_failed() {
        let scenario = Scenario::new("unit").l1("x").check(|_| Ok(()));
        let outcome = |lines: &[&str]| Outcome {
            transcript: ended(false, lines).transcript,
            dir: "/nowhere".into(),
        };
        judge(&scenario, &outcome(&["LAB: script 0"]), false).unwrap();
        assert!(judge(&scenario, &outcome(&["LAB: script 0"]), true).is_err());
        for lines in [
            &["LAB: script 1"][..],
            &[],
            &["LAB: await-failed x", "LAB: script 0"],
        ] {
            assert!(judge(&scenario, &outcome(lines), false).is_err());
        }
    }
}
