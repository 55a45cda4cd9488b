//! The machine's state, with a verdict and a remedy for each fact that changes the figures. All is
//! read from sysfs and /proc; nothing is written.
//!
//! | file | content |
//! | --- | --- |
//! | `fact` | a judged fact |
//! | `machine` | /sys and /proc, or made-up directories |
//! | `link` | the device's PCI Express link |
//! | `loaded` | the same while the work runs |
//! | `cpus` | frequency, siblings, isolation, other work |
//! | `memory` | the nodes of device and CPUs, huge pages |
//! | `virtualization` | the IOMMU's mode, interrupts without exits, mitigations |

mod cpus;
pub mod fact;
pub mod link;
pub mod loaded;
pub mod machine;
mod memory;
#[cfg(test)]
mod tests;
mod virtualization;

use fact::Fact;
use machine::Machine;

/// Reads and judges all facts.
pub fn read(machine: &Machine) -> Vec<Fact> {
    let mut facts = vec![link::link(machine)];
    facts.extend(cpus::facts(machine));
    facts.extend(memory::facts(machine));
    facts.extend(virtualization::facts(machine));
    facts
}

/// Judges the link while the work ran. A link that was slow before the work, and mostly not while
/// it ran, has slept, which changes no figure.
pub fn under_load(facts: &mut Vec<Fact>, machine: &Machine, loaded: &link::Loaded) {
    let Some(fact) = link::loaded(machine, loaded) else {
        return;
    };
    if fact.verdict != fact::Verdict::Invalid {
        facts.retain(|fact| fact.name != fact::LINK);
    }
    facts.push(fact);
}

/// Judges the link of a function without work: nothing wakes a link that sleeps, and the times of
/// starts and resets depend little on its speed.
pub fn without_work(facts: &mut [Fact]) {
    for fact in facts.iter_mut().filter(|fact| fact.name == fact::LINK) {
        if fact.verdict == fact::Verdict::Invalid {
            fact.verdict = fact::Verdict::Poor;
            fact.text
                .push_str(" (the run has no work that wakes a link that sleeps)");
        }
    }
}

/// Judges what has changed during a run: the link, and throttled CPUs.
pub fn changes(before: &[Fact], after: &[Fact]) -> Vec<Fact> {
    let names = [fact::LINK, fact::THROTTLED];
    let later = after
        .iter()
        .filter(|fact| names.contains(&fact.name.as_str()));
    later
        .filter_map(|now| {
            let then = before.iter().find(|fact| fact.name == now.name)?;
            (then.text != now.text).then(|| {
                let text = format!(
                    "changed during the run, from \"{}\" to \"{}\"",
                    then.text, now.text
                );
                Fact::bad(
                    &now.name,
                    text,
                    "measure again on a machine that is cool and idle",
                )
            })
        })
        .collect()
}
