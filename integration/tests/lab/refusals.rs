//! Bad VFIO input with the real kernel: one clear message, a hint, exit status 1, no panic, and no
//! change of the host.

use lab::Result;
use lab::disk::{Controller, Disk};
use lab::expect::{back, expect};
use lab::kernel::Choice;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::Run;

/// The most lines of a refusal: the message, its causes, a line for each device at fault, the
/// hint.
const MOST_LINES: usize = 12;

pub fn all() -> Vec<Scenario> {
    let no_iommu = Case::new("no-iommu-group", &[FREE], &[FREE, "IOMMU", "group"]);
    vec![
        bad_input("bad_vfio_input_is_refused_with_a_hint", "container").kernel(Choice::Stock),
        bad_input("bad_vfio_input_is_refused_by_iommufd_too", "iommufd"),
        Scenario::new("a_machine_without_an_iommu_is_explained")
            .kernel(Choice::Stock)
            .machine(|l1| l1.iommu = false)
            .disk(DISKS[0].clone())
            .script(
                no_iommu.script("") + "give_back 0000:00:05.0\n",
                move |outcome| {
                    no_iommu
                        .check(outcome)
                        .and_then(|()| back(outcome, &DISKS[0]))
                },
            ),
    ]
}

/// One refused run of mini-vmm.
struct Case {
    name: &'static str,
    /// The user who runs mini-vmm; root if empty.
    user: &'static str,
    vfio: &'static [&'static str],
    /// Shell commands before and after the run.
    before: &'static str,
    after: &'static str,
    /// Words that mini-vmm must say; `|` separates alternatives.
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
            "{}\nbad {} '{}' mini-vmm $boot --memory 256M \
             {arguments}{vfio}\n{}\n",
            self.before, self.name, self.user, self.after
        )
    }

    fn check(&self, outcome: &Outcome) -> Result<()> {
        let runs = outcome.transcript.runs();
        let run = runs.iter().find(|run| run.case == self.name);
        let problem = run.map_or_else(
            || Some("mini-vmm was never run".into()),
            |run| self.problem(run),
        );
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

const DISKS: [Disk; 6] = [
    Disk::new("free", 5),
    Disk::new("held", 6),
    Disk::new("shared", 7),
    Disk::new("neighbour", 7).at_function(1),
    Disk::behind("bridged", 1, Controller::NvmeBehindBridge),
    Disk::behind("beside", 2, Controller::NvmeBehindBridge),
];

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
            before: "node=/dev/vfio/devices/$(ls $sys/0000:00:05.0/vfio-dev)\n\
                     mv $node /dev/node.away",
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

/// This case is the last, because the limit stays in force.
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

fn bad_input(name: &'static str, iommu: &'static str) -> Scenario {
    let mut script = format!("bind_vfio {FREE}\nbind_vfio {SHARED}\nbind_vfio {BRIDGED}\n");
    for case in cases(iommu) {
        script.push_str(&case.script(&format!("--iommu {iommu}")));
    }
    for disk in &DISKS {
        script.push_str(&format!("give_back {}\n", disk.bdf()));
    }
    Scenario::new(name)
        .disks(&DISKS)
        .script(script, move |outcome| {
            for case in cases(iommu) {
                case.check(outcome)?;
            }
            for disk in &DISKS {
                disk.check_untouched(&outcome.image(disk.serial))?;
                back(outcome, disk)?;
            }
            Ok(())
        })
}
