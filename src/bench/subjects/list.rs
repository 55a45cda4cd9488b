//! The subjects of a run.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::subjects::peer::Peer;
use crate::subjects::program::Program;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Kind {
    /// The host's own driver: the most that a guest can reach.
    Host,
    /// A guest of mini-vmm, to which the device is passed through.
    MiniVmm {
        /// The program.
        program: Program,
        /// The mechanism that is changed, if there is one.
        change: Option<Change>,
    },
    /// A guest of another VMM.
    Peer {
        /// The program.
        program: Program,
        /// The VMM, and the way in which its guest has the disk.
        peer: Peer,
        /// Whether the guest's idle loop causes no exits.
        native_idle: bool,
        /// What is not equal to a guest of mini-vmm.
        differs: String,
    },
}

/// A mechanism of which one sees what it is worth when it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Each access to the device's registers is an exit
    Mmap,
    /// A thread wakes for each interrupt
    Irqfd,
    /// The guest's memory has no huge pages
    HugePages,
    /// The guest's idle loop causes no exits, and its virtual CPUs never sleep
    Idle,
}

impl Change {
    /// The option of mini-vmm.
    pub fn option(self) -> &'static str {
        match self {
            Self::Mmap => "mmap=off",
            Self::Irqfd => "irqfd=off",
            Self::HugePages => "hugepages=off",
            Self::Idle => "idle=native",
        }
    }
}

/// A subject of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name in reports.
    pub name: String,
    /// The subject that it repeats: both are the same, so any difference between them is noise.
    pub repeats: Option<usize>,
    /// What it is.
    pub kind: Kind,
}

impl Subject {
    /// Whether its interrupts are followed: its guest has the device itself, and it repeats no
    /// other subject.
    pub fn is_followed(&self) -> bool {
        let has_device = match &self.kind {
            Kind::Host => false,
            Kind::MiniVmm { .. } => true,
            Kind::Peer { peer, .. } => peer.is_assigned() && peer.counts(),
        };
        has_device && self.repeats.is_none()
    }
}

/// The host, each program, the first program with each change, each guest of another VMM, and the
/// first program once more.
pub fn subjects(
    programs: &[Program],
    changes: &[Change],
    peers: &[(Peer, Program)],
) -> Vec<Subject> {
    let mut all = vec![Subject {
        name: "host".into(),
        repeats: None,
        kind: Kind::Host,
    }];
    for (number, program) in (1..).zip(programs) {
        all.push(Subject {
            name: match programs.len() {
                1 => "mini-vmm".into(),
                _ => format!("mini-vmm {number}"),
            },
            repeats: None,
            kind: Kind::MiniVmm {
                program: program.clone(),
                change: None,
            },
        });
    }
    for &change in changes {
        if let Some(program) = programs.first() {
            all.push(Subject {
                name: format!("{}, {}", all[1].name, change.option()),
                repeats: None,
                kind: Kind::MiniVmm {
                    program: program.clone(),
                    change: Some(change),
                },
            });
        }
    }
    for (peer, program) in peers {
        all.push(of_peer(*peer, program, false));
        // What stands against idle=native of mini-vmm.
        if peer.has_native_idle() && changes.contains(&Change::Idle) {
            all.push(of_peer(*peer, program, true));
        }
    }
    if let Some(first) = all.get(1).cloned() {
        all.push(Subject {
            name: format!("{} again", first.name),
            repeats: Some(1),
            ..first
        });
    }
    all
}

fn of_peer(peer: Peer, program: &Program, native_idle: bool) -> Subject {
    let idle = if native_idle { ", cpu-pm=on" } else { "" };
    Subject {
        name: format!("{}{idle}", peer.name()),
        repeats: None,
        kind: Kind::Peer {
            program: program.clone(),
            peer,
            native_idle,
            differs: peer.differs(),
        },
    }
}

/// The pairs of subjects that are compared, base first: each with the host, each program with the
/// first, and the repeated subject with itself.
pub fn pairs(subjects: &[Subject]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for (index, subject) in subjects.iter().enumerate().skip(1) {
        match subject.repeats {
            Some(first) => pairs.push((first, index)),
            None => {
                pairs.push((0, index));
                if index > 1 {
                    pairs.push((1, index));
                }
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(version: &str) -> Program {
        Program {
            path: "/bin/mini-vmm".into(),
            version: version.into(),
            sha256: String::new(),
        }
    }

    #[test]
    fn each_run_has_a_subject_twice() {
        let one = subjects(&[program("1")], &[], &[]);
        let names: Vec<&str> = one.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["host", "mini-vmm", "mini-vmm again"]);
        assert_eq!(pairs(&one), [(0, 1), (1, 2)]);
        let changed = subjects(&[program("1")], &[Change::Mmap], &[]);
        assert_eq!(changed[2].name, "mini-vmm, mmap=off");
        assert_eq!(pairs(&changed), [(0, 1), (0, 2), (1, 2), (1, 3)]);
        let two = subjects(&[program("1"), program("2")], &[], &[]);
        assert_eq!(two[3].name, "mini-vmm 1 again");
        assert_eq!(pairs(&two), [(0, 1), (0, 2), (1, 2), (1, 3)]);
        let peers = [
            (Peer::QemuVfio, program("q")),
            (Peer::QemuVirtio, program("q")),
        ];
        let all = subjects(&[program("1")], &[Change::Idle], &peers);
        let names: Vec<&str> = all[3..].iter().map(|s| s.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "QEMU, vfio-pci",
                "QEMU, vfio-pci, cpu-pm=on",
                "QEMU, virtio-blk",
                "mini-vmm again"
            ]
        );
        assert_eq!(pairs(&all).last(), Some(&(1, 6)));
    }
}
