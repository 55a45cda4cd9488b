//! Bad VFIO input against the real kernel: one clear sentence, a hint, exit status 1, no panic,
//! and a host that is left as it was.

use std::time::Duration;

use lab::Result;
use lab::disk::{Disk, Wiring};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Outcome, Scenario};
use lab::transcript::Run;

use lab::expect::{back, expect};

const LIMIT: Duration = Duration::from_secs(150);

/// Lines that a refusal may take: the sentence, its causes, one line a culprit, the hint.
const MOST_LINES: usize = 12;

pub fn all() -> Vec<Scenario> {
    vec![bad_input("container"), bad_input("iommufd"), no_iommu()]
}

/// A case's name, the mini-vmm arguments, who runs it (empty: root) and words that must be said;
/// a word with alternatives has them separated by |.
struct Case {
    name: &'static str,
    user: &'static str,
    vfio: &'static [&'static str],
    before: &'static str,
    after: &'static str,
    words: &'static [&'static str],
}

impl Case {
    const fn new(
        name: &'static str,
        vfio: &'static [&'static str],
        words: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            user: "",
            vfio,
            before: "",
            after: "",
            words,
        }
    }

    fn script(&self, arguments: &str) -> String {
        let vfio: String = self
            .vfio
            .iter()
            .map(|bdf| format!(" --vfio {bdf}"))
            .collect();
        format!(
            "{}\nbad {} '{}' mini-vmm --kernel bzImage --initrd initrd --memory 256M \
             {arguments}{vfio}\n{}\n",
            self.before, self.name, self.user, self.after
        )
    }

    fn check(&self, outcome: &Outcome) -> Result<()> {
        let runs = outcome.transcript.runs();
        let run = runs.iter().find(|run| run.case == self.name);
        let problem = run.map_or_else(|| Some("it was never run".into()), |run| self.problem(run));
        expect(problem.is_none(), || {
            format!("case {}: {}", self.name, problem.unwrap_or_default())
        })
    }

    fn problem(&self, run: &Run<'_>) -> Option<String> {
        let lines: Vec<&str> = run
            .messages()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let all = lines.join("\n");
        let lower = all.to_lowercase();
        if run.exit() != Some(1) {
            return Some(format!("the exit status is {:?}, not 1", run.exit()));
        }
        if lower.contains("panicked") {
            return Some("mini-vmm panicked".into());
        }
        if lines.is_empty() || lines.len() > MOST_LINES {
            return Some(format!("the message has {} lines", lines.len()));
        }
        if !lines
            .iter()
            .any(|line| line.trim_start().starts_with("hint:"))
        {
            return Some(format!("there is no hint: {all}"));
        }
        for word in self.words {
            if !word
                .split('|')
                .any(|one| lower.contains(&one.to_lowercase()))
            {
                return Some(format!("\"{word}\" is not said: {all}"));
            }
        }
        if run.lab("unchanged").next() != Some("yes") {
            return Some("the host was changed".into());
        }
        None
    }
}

const FREE: &str = "0000:00:05.0";
const HELD: &str = "0000:00:06.0";
const SHARED: &str = "0000:00:07.0";
const NEIGHBOUR: &str = "0000:00:07.1";
const BRIDGED: &str = "0000:01:01.0";
const BESIDE: &str = "0000:01:02.0";

fn cases(iommu: &str) -> Vec<Case> {
    let mut cases = vec![
        Case::new("malformed-bdf", &["00:5:0:zz"], &["00:5:0:zz"]),
        Case::new("absent-bdf", &["0000:00:1e.3"], &["0000:00:1e.3"]),
        Case::new(
            "same-device-twice",
            &[FREE, "00:05.0"],
            &[FREE, "twice|more than once|already"],
        ),
        Case::new("other-driver", &[HELD], &[HELD, "nvme", "vfio-pci"]),
        Case::new(
            "group-of-functions-not-viable",
            &[SHARED],
            &["group", "viable", NEIGHBOUR, "nvme"],
        ),
        Case::new(
            "group-behind-a-bridge-not-viable",
            &[BRIDGED],
            &["group", "viable", BESIDE, "nvme"],
        ),
        Case {
            before: "mv /dev/kvm /dev/kvm.away",
            after: "mv /dev/kvm.away /dev/kvm",
            ..Case::new("no-dev-kvm", &[FREE], &["/dev/kvm"])
        },
        Case {
            user: "user",
            ..Case::new("dev-kvm-not-permitted", &[FREE], &["/dev/kvm", "permi"])
        },
    ];
    cases.extend(match iommu {
        "container" => Vec::from(nodes_of_a_group()),
        _ => Vec::from(nodes_of_iommufd()),
    });
    cases
}

fn nodes_of_a_group() -> [Case; 3] {
    [
        Case {
            before: "group=/dev/vfio/$(group_of 0000:00:05.0)\nmv $group /dev/group.away",
            after: "mv /dev/group.away $group",
            ..Case::new("no-group-node", &[FREE], &["/dev/vfio/"])
        },
        Case {
            user: "user",
            before: "chmod 666 /dev/kvm",
            ..Case::new("group-not-permitted", &[FREE], &["/dev/vfio/", "permi"])
        },
        memlock("chown user $group\nulimit -l 1024"),
    ]
}

fn nodes_of_iommufd() -> [Case; 4] {
    [
        Case {
            before: "node=/dev/vfio/devices/$(ls $sys/0000:00:05.0/vfio-dev)\nmv $node /dev/node.away",
            after: "mv /dev/node.away $node",
            ..Case::new("no-device-node", &[FREE], &[FREE, "/dev/vfio/devices/"])
        },
        Case {
            user: "user",
            before: "chmod 666 /dev/kvm",
            ..Case::new("iommufd-not-permitted", &[FREE], &["/dev/iommu", "permi"])
        },
        Case {
            user: "user",
            before: "chmod 666 /dev/iommu",
            ..Case::new(
                "device-node-not-permitted",
                &[FREE],
                &[FREE, "/dev/vfio/devices/", "permi"],
            )
        },
        memlock("chown user $node\nulimit -l 1024"),
    ]
}

/// The last of all: a limit stays.
fn memlock(before: &'static str) -> Case {
    Case {
        user: "user",
        before,
        ..Case::new(
            "memlock-too-small",
            &[FREE],
            &["memlock|locked", "ulimit|LimitMEMLOCK|limits.conf|prlimit"],
        )
    }
}

fn bad_input(iommu: &'static str) -> Scenario {
    let mut neighbour = Disk::new("neighbour", 7);
    neighbour.function = 1;
    let disks = [
        Disk::new("free", 5),
        Disk::new("held", 6),
        Disk::new("shared", 7),
        neighbour,
        Disk::wired("bridged", 1, Wiring::NvmeBehindBridge),
        Disk::wired("beside", 2, Wiring::NvmeBehindBridge),
    ];
    let mut script = format!("bind_vfio {FREE}\nbind_vfio {SHARED}\nbind_vfio {BRIDGED}\n");
    for case in cases(iommu) {
        script.push_str(&case.script(&format!("--iommu {iommu}")));
    }
    for disk in &disks {
        script.push_str(&format!("give_back {}\n", disk.bdf()));
    }
    let (name, kernel) = match iommu {
        "container" => ("bad_vfio_input_is_refused_with_a_hint", Choice::Stock),
        _ => ("bad_vfio_input_is_refused_by_iommufd_too", Choice::Lab),
    };
    Scenario {
        name,
        machine: Machine::with_disks(&disks),
        kernel,
        image: Image::BzImage,
        script,
        limit: LIMIT,
        check: Box::new(move |outcome| {
            for case in cases(iommu) {
                case.check(outcome)?;
            }
            for disk in &disks {
                disk.check_untouched(&outcome.image(disk.serial))?;
                back(outcome, disk)?;
            }
            Ok(())
        }),
    }
}

fn no_iommu() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let case = Case::new("no-iommu-group", &[FREE], &[FREE, "IOMMU", "group"]);
    Scenario {
        name: "a_machine_without_an_iommu_is_explained",
        machine: Machine {
            iommu: false,
            ..Machine::with_disks(std::slice::from_ref(&disk))
        },
        kernel: Choice::Stock,
        image: Image::BzImage,
        script: format!("{}give_back {FREE}\n", case.script("")),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            case.check(outcome)?;
            back(outcome, &disk)
        }),
    }
}
