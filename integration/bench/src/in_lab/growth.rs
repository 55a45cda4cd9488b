//! Part 5 in the lab: measures how the time of a start grows with devices, vCPUs and memory, and
//! the time of a reset. The guests have a few bytes of code (`crate::tiny`), so the VMM and the
//! kernel use all of the time. The bare calls also open the devices, fill the RAM and map it before
//! they run their guest.

use std::iter;

use lab::disk::Disk;

use super::facts::Facts;
use super::l1;
use super::session::Session;
use super::setup::Setup;
use crate::error::Result;
use crate::names::{START_IN_LAB, SUBJECT};
use crate::results::{Key, Results};
use crate::subjects::{Guest, Kind, Subject, Subjects};

const USUAL: u32 = 512;

/// One start.
struct Run<'a> {
    subject: &'a Subject,
    /// The axis along which the run varies; `None` for a reset.
    axis: Option<&'static str>,
    value: u32,
    cpus: u32,
    mib: u32,
    devices: usize,
}

impl<'a> Run<'a> {
    /// The usual guest with one device, but with `value` on this axis.
    fn at(subject: &'a Subject, axis: &'static str, value: u32) -> Self {
        let or = |name, usual| if axis == name { value } else { usual };
        Self {
            subject,
            axis: Some(axis),
            value,
            cpus: or("vCPUs", 1),
            mib: or("MiB", USUAL),
            devices: or("devices", 1) as usize,
        }
    }

    /// Returns the line of L1's script for this run; `bdfs` are the addresses of the devices.
    fn line(&self, id: usize, bdfs: &[&str]) -> String {
        let resetting = l1::resetting(self.subject);
        let (kernel, marks) = match self.axis {
            Some(_) => (l1::tiny(), 1),
            None => (resetting.as_path(), 2),
        };
        let guest = Guest {
            cpus: self.cpus,
            mib: self.mib,
            devices: &bdfs[..self.devices],
            ..Guest::new(kernel)
        };
        let command = l1::command(self.subject, &guest);
        format!("probe marks {id} none {marks} -- {command} || :\n")
    }
}

/// Measures part 5, and adds the figures to the results.
pub fn run(setup: &Setup<'_>, results: &mut Results) -> Result<()> {
    let disks = ["bench1", "bench2", "bench3", "bench4"];
    let disks: Vec<Disk> = (5..)
        .zip(disks)
        .map(|(n, serial)| Disk::new(serial, n))
        .collect();
    let bdfs: Vec<String> = disks.iter().map(Disk::bdf).collect();
    let bdfs: Vec<&str> = bdfs.iter().map(String::as_str).collect();
    let runs = runs(setup.subjects);
    let lines = runs.iter().enumerate();
    let round = lines.map(|(id, run)| run.line(id, &bdfs)).collect();
    let mut machine = l1::machine(&disks);
    machine.memory = 5632;
    let session = Session {
        name: "bench-growth",
        machine,
        before: bdfs
            .iter()
            .map(|bdf| format!("bind_vfio {bdf}\n"))
            .collect(),
        round,
    };
    let facts = session.run(setup, "part 5, more devices, vCPUs and memory")?;
    take(&facts, &runs, results);
    Ok(())
}

/// The runs of a round. mini-vmm and the bare calls run along every axis. The other subjects run
/// along the axis of devices only: with firmware that takes seconds, a round would take minutes.
/// All VMMs make a reset.
fn runs(subjects: &Subjects) -> Vec<Run<'_>> {
    let mut runs = Vec::new();
    let axes: [(&str, &[u32]); 3] = [
        ("devices", &[0, 1, 2, 3, 4]),
        ("vCPUs", &[1, 2, 3, 4]),
        ("MiB", &[256, 512, 1024, 2048, 4096]),
    ];
    let all = || iter::once(subjects.bare_calls()).chain(subjects.with_vfio());
    for (axis, values) in axes {
        for &value in values {
            for subject in all() {
                if axis == "devices" || grows_along_every_axis(subject) {
                    runs.push(Run::at(subject, axis, value));
                }
            }
        }
    }
    for subject in subjects.with_vfio() {
        if subject.kind.reset().is_some() {
            runs.push(Run {
                axis: None,
                ..Run::at(subject, "devices", 1)
            });
        }
    }
    runs
}

fn grows_along_every_axis(subject: &Subject) -> bool {
    matches!(subject.kind, Kind::BareCalls | Kind::MiniVmm)
}

fn take(facts: &Facts, runs: &[Run<'_>], results: &mut Results) {
    for fact in facts.iter().filter(|fact| fact.kind == "marks") {
        let Some(run) = runs.get(fact.run) else {
            continue;
        };
        let times: Vec<f64> = fact
            .rest
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let (work, sample) = match (run.axis, times.as_slice()) {
            (Some(_), [first]) => (START_IN_LAB, *first),
            (None, [first, second]) => {
                ("reset to first instruction, one NVMe disk", second - first)
            }
            _ => continue,
        };
        let key = Key {
            part: 5,
            work,
            at: run.axis.map(|axis| (axis, run.value.into())),
            quantity: ("time", "ms"),
        };
        results.add(&key, &run.subject.name, sample);
    }
    results.missing.extend(facts.failed_runs(5));
    results.missing.extend(left_out(runs));
}

/// A line for the results that names the subjects that were not measured along every axis.
fn left_out(runs: &[Run<'_>]) -> Option<String> {
    let mut names: Vec<&str> = runs
        .iter()
        .map(|run| run.subject)
        .filter(|subject| !grows_along_every_axis(subject))
        .map(|subject| subject.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| {
        format!(
            "part 5, vCPUs and memory in the lab of {}: left out to save time, only {SUBJECT} and \
             the bare calls have them",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::FLOOR;

    #[test]
    fn only_those_that_were_there_are_said_to_be_left_out() {
        let alone = Subjects::example(Vec::new());
        assert_eq!(left_out(&runs(&alone)), None);
        let peer = Subject::new("QEMU q35", Kind::QemuQ35, "/bin/true");
        let subjects = Subjects::example(vec![peer]);
        let told = left_out(&runs(&subjects)).unwrap();
        assert!(told.contains("in the lab of QEMU q35: "), "{told}");
        let has = |name, axis| {
            let mut all = runs(&subjects).into_iter();
            all.any(|run| run.subject.name == name && run.axis == axis)
        };
        assert!(has("QEMU q35", Some("devices")) && !has("QEMU q35", Some("vCPUs")));
        assert!(has(SUBJECT, Some("vCPUs")) && has(FLOOR, Some("MiB")));
    }
}
