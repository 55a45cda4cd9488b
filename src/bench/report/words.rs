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
    let serial = device.serial.as_deref().unwrap_or("unknown");
    let what = match (&method.other_end, results.works.as_slice()) {
        (Some(_), _) => format!("network port (hardware address {serial})"),
        (None, []) => "PCI function".into(),
        (None, _) => {
            let model = device.model.as_deref().unwrap_or("disk");
            format!("{model} (serial number {serial})")
        }
    };
    let mut lines = vec![
        format!(
            "{what}, driver {}; {}, Linux {}; guest: Linux {}, {} of memory.",
            device.driver, machine.processor, machine.kernel, method.guest_kernel, method.memory
        ),
        format!(
            "{} rounds of {} subjects{}, on the CPUs {}; the run ended by {}.",
            results.rounds.len(),
            results.subjects.len(),
            match method.other_end {
                None if results.works.is_empty() => String::new(),
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
    for of in &results.interrupts {
        if let (Some(why), Some(subject)) = (&of.why, results.subjects.get(of.subject)) {
            notes.push(format!(
                "No time of an interrupt of {}: {why}.",
                subject.name
            ));
        }
    }
    let mut counts = results.counts.iter();
    if !results.counts.is_empty() && counts.all(|count| count.costs.guest_cycles.is_none()) {
        let mut whys = results.counts.iter().filter_map(|c| c.no_cycles.as_deref());
        notes.push(format!(
            "No counter of the processor's cycles ({}), so those of guest and host are not told \
             apart.",
            whys.next().unwrap_or("the run does not say why")
        ));
    }
    notes.extend(agreement::notes(results));
    notes.extend(results.checks.iter().map(CrossCheck::in_words));
    let mut reasons: Vec<String> = Vec::new();
    for trial in results.rounds.iter().flatten() {
        let subject = results.subjects.get(trial.subject);
        if let (Some(why), Some(subject)) = (&trial.moments.no_reset, subject) {
            let reason = format!("No reset of {}: {why}.", subject.name);
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    notes.extend(reasons);
    let samples = results
        .rounds
        .iter()
        .flatten()
        .flat_map(|trial| &trial.samples);
    let lost: u64 = samples.map(|sample| sample.lost).sum();
    if lost > 0 {
        notes.push(format!(
            "{lost} packets did not come back within 100 ms, or in up to a second where others \
             came back late; they are in no figure."
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

/// The head of the table of starts.
pub const MOMENTS_HEAD: &str = "Start, reset and reboot";

/// What the table of starts has.
pub const MOMENTS: &str = "The median of the rounds, with their quartiles. A start begins with the \
    VMM's process; where another VMM gets the device, it begins before that, with mini-vmm host \
    bind, which mini-vmm does as a part of its start. The first instruction is that of a guest of \
    a few bytes. For a reset, no driver has the function, and the kernel of the guest (of the host \
    in the host's row) makes it. A reboot goes from the guest's call to its next /init.";

/// The head of the table of published figures.
pub const ANCHORS_HEAD: &str = "Published figures";

/// What the table of published figures has.
pub const ANCHORS: &str = "Each was read in its source. They are of other machines: they show what \
    a time grows with, not who is faster.";

/// The head of the table of interrupts.
pub const INTERRUPTS_HEAD: &str = "Interrupts in the host's kernel";

/// What the table of interrupts has.
pub const INTERRUPTS: &str = "From the moment at which VFIO's handler of the message runs: \
    the medians until KVM gets the message and until KVM injects it into the guest, and \
    percentiles of the latter. An interrupt whose vector is not injected before the handler runs \
    again is not followed, and has no time here. By the kernel's own events, in a pass of its own \
    in which no time of any other table was taken; recording costs a little of each time.";

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
