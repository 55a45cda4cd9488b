//! A run by files that its parent has opened: the user has no rights, and /dev has no nodes.

use std::path::PathBuf;

use lab::Result;
use lab::disk::Disk;
use lab::expect::{back_with_guest_text, ended_well, expect, run, used, worked};
use lab::outcome::Outcome;
use lab::scenario::Scenario;

const DISK: Disk = Disk::new("lab-disk", 5);

/// `refused NAME COMMAND...` reports the exit status and the message of a command. `/run/apart
/// COMMAND...` runs a command as nobody, where /dev has only /dev/null; the first line says so.
const SCRIPT: &str = "\
refused() {
\tname=$1
\tshift
\tstatus=0
\t\"$@\" >/run/refused.out 2>&1 </dev/null || status=$?
\tsay \"refused $name status=$status $(tr '\\n' ' ' </run/refused.out)\"
}
cat >/run/apart <<-'END'
\t#!/bin/sh
\tmount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && ls /dev >&2
\texec su -s /bin/sh -c 'exec \"$0\" \"$@\"' nobody -- \"$@\"
END
chmod 755 /run/apart
bdf=0000:00:05.0
bind_vfio $bdf
node=/dev/vfio/devices/$(ls $sys/$bdf/vfio-dev)
refused group sh -c \"exec mini-vmm --kernel x --vfio fd=9 9<>/dev/vfio/$(group_of $bdf)\"
refused read-only sh -c \"exec mini-vmm --kernel x --vfio fd=9 9<$node\"
refused managed sh -c \"exec mini-vmm --kernel x --vfio fd=9,managed=on 9<>$node\"
refused container sh -c \"exec mini-vmm --kernel x --iommu container --vfio fd=9 9<>$node\"
refused type1 sh -c 'exec mini-vmm --kernel x --iommu fd=8 8<>/dev/vfio/vfio'
refused twice sh -c \"exec mini-vmm --kernel bzImage --vfio fd=9 --vfio fd=8 8<>$node 9<>$node\"
ulimit -l unlimited
run_as '' sh -c 'exec 7<>/dev/kvm 8<>/dev/iommu 9<>'$node'
\tmini-vmm explain --vfio fd=9 >/run/explained 2>&1 || exit 9
\texec unshare -m /run/apart mini-vmm \"$@\"' sh $boot -v --memory 512M \\
\t--kvm fd=7 --iommu fd=8 --vfio fd=9 --cmdline \"$cmdline\"
in_use after
refused explain grep -m 4 -e 'explain reads' -e 0000:00:05.0 /run/explained
run_as '' sh -c 'exec mini-vmm \"$@\" 9<>'$node sh $boot -v --memory 512M --vfio fd=9 \\
\t--cmdline \"$cmdline\"
refuse
refused bound sh -c \"exec 9<>$node; mini-vmm --kernel /run/off.elf --memory 64M --vfio fd=9 &&
\texec mini-vmm --kernel /run/off.elf --vfio fd=9\"
give_back $bdf
";

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_guest_by_open_files_alone")
            .disk(DISK)
            .machine(|l1| l1.programs = vec![PathBuf::from(env!("CARGO_BIN_EXE_refuse"))])
            .script(SCRIPT, by_files),
    ]
}

fn by_files(outcome: &Outcome) -> Result<()> {
    let apart = run(outcome, 0)?;
    let nodes = apart.messages().next();
    expect(nodes == Some("null"), || {
        format!("/dev of the run had other nodes: {nodes:?}")
    })?;
    for index in [0, 1] {
        let run = run(outcome, index)?;
        ended_well(&run)?;
        worked(outcome, &run, &DISK)?;
        used(&run, "iommufd")?;
    }
    let left = outcome.transcript.lab("in-use").next();
    expect(left == Some("after pinned=0 open=0"), || {
        format!("the first run left something behind: {left:?}")
    })?;
    for (name, status, words) in [
        (
            "group",
            1,
            ["--vfio fd=9: the file is IOMMU group", "vfio-dev"],
        ),
        (
            "read-only",
            1,
            ["not opened for reading and writing", "9<>NODE"],
        ),
        (
            "managed",
            1,
            [
                "0000:00:05.0 is bound to VFIO already",
                "leave managed=on out",
            ],
        ),
        (
            "container",
            1,
            ["--iommu container does not take", "--iommu iommufd"],
        ),
        (
            "type1",
            1,
            ["/dev/vfio/vfio, not /dev/iommu", "8<>/dev/iommu"],
        ),
        (
            "twice",
            1,
            ["PCI device 0000:00:05.0 is given twice", "once"],
        ),
        (
            "explain",
            0,
            ["explain reads all devices from sysfs", "0000:00:05.0"],
        ),
        (
            "bound",
            1,
            ["0000:00:05.0 is bound already", "close the file"],
        ),
    ] {
        said(outcome, name, status, words)?;
    }
    back_with_guest_text(outcome, &DISK)
}

/// Checks the exit status and the words of the command NAME.
fn said(outcome: &Outcome, name: &str, status: i32, words: [&str; 2]) -> Result<()> {
    let start = format!("{name} status={status} ");
    let mut all = outcome.transcript.lab("refused");
    let found = all.any(|line| line.starts_with(&start) && words.iter().all(|w| line.contains(w)));
    expect(found, || {
        let all: Vec<_> = outcome.transcript.lab("refused").collect();
        format!("{name}: status {status} and {words:?} are not in {all:#?}")
    })
}
