//! What a report says besides its tables. The Markdown and the page say the same.

use crate::cross::check::CrossCheck;
use crate::report::agreement;
use crate::report::results::Results;
use crate::subjects::list::Kind;

/// The title.
pub fn title(results: &Results) -> String {
    let Results {
        machine, device, ..
    } = results;
    format!("{} of {}, {}", device.address, machine.name, results.date)
}

/// What was measured and how.
pub fn method(results: &Results) -> Vec<String> {
    let Results {
        machine,
        device,
        method,
        ..
    } = results;
    let cpus: Vec<_> = method.cpus.iter().map(usize::to_string).collect();
    let (what, number) = match &method.other_end {
        None => (device.model.as_deref().unwrap_or("disk"), "serial number"),
        Some(_) => ("network port", "hardware address"),
    };
    let serial = device.serial.as_deref().unwrap_or("unknown");
    let mut lines = vec![
        format!(
            "{what} ({number} {serial}), driver {}; {}, Linux {}; guest: Linux {}, {} of memory.",
            device.driver, machine.processor, machine.kernel, method.guest_kernel, method.memory
        ),
        format!(
            "{} rounds of {} subjects{}, on the CPUs {}; the run ended by {}.",
            results.rounds.len(),
            results.subjects.len(),
            match method.other_end {
                None => format!(", by {}", method.engine.in_words()),
                Some(_) => String::new(),
            },
            cpus.join(", "),
            results.ended
        ),
    ];
    if let Some(end) = &method.other_end {
        lines.push(format!("The other end of the link: {end}."));
    }
    lines
}

/// The programs, and what makes all figures doubtful.
pub fn notes(results: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    for subject in &results.subjects {
        match (&subject.kind, subject.repeats) {
            (Kind::MiniVmm { program, .. }, None) => {
                notes.push(format!("{}: {}", subject.name, program.in_words()));
            }
            (
                Kind::Peer {
                    program, differs, ..
                },
                None,
            ) => notes.push(format!(
                "{}: {}; not equal: {differs}",
                subject.name,
                program.in_words()
            )),
            _ => {}
        }
    }
    notes.extend(agreement::notes(results));
    notes.extend(results.checks.iter().map(CrossCheck::in_words));
    let samples = results
        .rounds
        .iter()
        .flatten()
        .flat_map(|trial| &trial.samples);
    let lost: u64 = samples.map(|sample| sample.lost).sum();
    if lost > 0 {
        notes.push(format!(
            "{lost} packets did not come back within 100 ms, or up to a second where others came \
             back late; they are in no figure."
        ));
    }
    if let Some(trial) = results.rounds.first().and_then(|turns| turns.first())
        && trial.zeros > 0
    {
        notes.push(format!(
            "{} of {} blocks that were looked at hold zeros. A disk may answer such reads without \
             its flash memory, so all subjects may look faster than with data.",
            trial.zeros, trial.blocks
        ));
    }
    notes
}

/// What the table of costs has.
pub const COSTS: &str = "Counted in a pass of its own, less what a window without reads costs. \
    Exits to mini-vmm are without accesses to ports, which are the console's. A virtual CPU's time \
    includes the guest's own.";

/// What the table of exits by kind has.
pub const KINDS: &str = "KVM's own counters of the virtual CPUs, for each operation, from the same \
    pass. KVM counts some kinds of exits only, so they are fewer than all exits; an access to a \
    port counts even if KVM answers it itself.";

/// What the table of comparisons has.
pub const COMPARISONS: &str = "The ratio is that of the same round, so 1 means equal. The \
    interval holds the true ratio in 95 % of all runs, for all rows together (Bonferroni). \
    \"No difference\" means that it holds 1.";
