//! Whether the pass that counts did the same as the timed turns: KVM's exits for each operation, as
//! KVM counts them in both.

use crate::report::results::Results;
use crate::stats::summary::median;
use crate::subjects::counting::PAUSE;
use crate::subjects::counts::Count;
use crate::work::task::{IDLE, Work};
use crate::work::trial::SETTLING;

/// The two may differ by this fraction.
const NEAR: f64 = 0.02;

/// Or by so many exits for each operation, where there are hardly any.
const FEW: f64 = 0.02;

/// A kind of work by a subject, with its exits for each operation.
struct Pair<'a> {
    subject: usize,
    work: &'a Work,
    timed: f64,
    counted: f64,
}

impl Pair<'_> {
    fn agrees(&self) -> bool {
        let apart = (self.timed - self.counted).abs();
        apart <= FEW || apart <= NEAR * self.counted.abs()
    }
}

/// What is said of it: a sentence for each kind of work that differs, and one for all others.
pub(super) fn notes(results: &Results) -> Vec<String> {
    if results.counts.is_empty() {
        return Vec::new();
    }
    let pairs = pairs(results);
    if pairs.is_empty() {
        return vec![
            "KVM's exits of the timed turns are not known, so nothing says whether the pass that \
             counts did the same. They need debugfs: mount -t debugfs none /sys/kernel/debug"
                .into(),
        ];
    }
    let (same, other): (Vec<_>, Vec<_>) = pairs.iter().partition(|pair| pair.agrees());
    let mut notes = Vec::new();
    if !same.is_empty() {
        notes.push(format!(
            "In {} of {} kinds of work by a subject, KVM's exits for each operation agree within \
             2 % between the timed turns and the pass that counts.",
            same.len(),
            pairs.len()
        ));
    }
    for pair in other {
        notes.push(format!(
            "KVM's exits for each operation DIFFER by more than 2 %: {}, {}: {:.3} in the timed \
             turns, {:.3} in the pass that counts.",
            results.subjects[pair.subject].name,
            pair.work.in_words(),
            pair.timed,
            pair.counted
        ));
    }
    notes
}

/// KVM's exits of a count, without accesses to ports.
fn exits(count: &Count) -> Option<f64> {
    let number = |name: &str| count.costs.kvm.get(name).copied();
    Some(number("exits")?.saturating_sub(number("io_exits")?) as f64)
}

fn pairs(results: &Results) -> Vec<Pair<'_>> {
    let work_s = (results.method.warm_up_ms + results.method.measure_ms) as f64 / 1000.0;
    let mut pairs = Vec::new();
    for count in results.counts.iter().filter(|count| count.reads > 0) {
        let mut of_subject = results.counts.iter().filter(|c| c.subject == count.subject);
        let idle = of_subject.find(|c| c.work == IDLE).and_then(exits);
        let work = results.works.iter().find(|work| work.name == count.work);
        let (Some(idle), Some(all), Some(work)) = (idle, exits(count), work) else {
            continue;
        };
        // An idle guest's exits come with time, not with operations.
        let each_second = idle / (PAUSE.as_secs_f64() + work_s);
        let turns = results.rounds.iter();
        let turns = turns.filter_map(|turns| turns.get(count.subject));
        let totals = turns.flat_map(|trial| &trial.totals);
        let timed: Vec<f64> = totals
            .filter(|total| total.work == count.work && total.operations > 0)
            .map(|total| {
                let idle = each_second * (SETTLING.as_secs_f64() + work_s);
                (total.exits as f64 - idle) / total.operations as f64
            })
            .collect();
        if !timed.is_empty() && count.subject < results.subjects.len() {
            pairs.push(Pair {
                subject: count.subject,
                work,
                timed: median(&timed),
                counted: (all - idle) / count.reads as f64,
            });
        }
    }
    pairs
}
