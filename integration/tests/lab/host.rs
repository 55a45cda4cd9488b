//! `host check` and `host list` on real sysfs: on a machine as it should be, and on machines that
//! lack one thing each. Where a line says what mends it, that is done, and must have mended it.

use std::time::Duration;

use lab::disk::{Disk, Wiring};
use lab::error::{Error, Result};
use lab::expect::{ended_well, exit, expect, run};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Outcome, Scenario};
use lab::transcript::{Run, Speaker};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(150);

pub fn all() -> Vec<Scenario> {
    vec![
        good(),
        no_iommu(),
        iommu_off(),
        no_remapping(),
        half_ready(),
        ordinary_user(),
    ]
}

/// What a command wrote to its standard output.
fn output(run: &Run<'_>) -> String {
    let lines = run.lines.iter().filter(|line| line.from == Speaker::Guest);
    lines.map(|line| format!("{}\n", line.text)).collect()
}

fn json(run: &Run<'_>) -> Result<Value> {
    serde_json::from_str(&output(run))
        .map_err(|e| Error::failed(format!("\"{}\" wrote no JSON: {e}", run.command())))
}

/// The check's line of a name, with what mends it, if that is said: what follows the arrow.
fn line<'a>(text: &'a str, level: &str, name: &str, words: &str) -> Result<&'a str> {
    let mut lines = text.lines();
    let start = format!("{level}  {name}");
    let found = lines.find(|line| {
        line.strip_prefix(&start)
            .is_some_and(|rest| rest.starts_with(' '))
            && line.contains(words)
    });
    let found = found
        .ok_or_else(|| Error::failed(format!("no line \"{start} ... {words}\" in:\n{text}")))?;
    let mend = lines.take_while(|line| line.starts_with(' '));
    let mend = mend
        .filter_map(|line| line.trim().strip_prefix("→ "))
        .next();
    expect(mend.is_some() == (level != "PASS"), || {
        format!("\"{found}\" does not say what mends it, or does although nothing is amiss")
    })?;
    Ok(mend.unwrap_or_default())
}

/// A check with this exit status and this line; nothing else fails.
fn only(outcome: &Outcome, index: usize, level: &str, name: &str, mend: &str) -> Result<()> {
    let run = run(outcome, index)?;
    let text = output(&run);
    exit(&run, i32::from(level == "FAIL"))?;
    let said = line(&text, level, name, "")?;
    expect(said.contains(mend), || {
        format!("{name} says \"{said}\" without \"{mend}\"")
    })?;
    let failed = text.lines().filter(|line| line.starts_with("FAIL")).count();
    let failed_here = text
        .lines()
        .filter(|line| line.starts_with(&format!("FAIL  {name} ")))
        .count();
    expect(failed == failed_here, || {
        format!("more fails than {name}:\n{text}")
    })
}

/// The list of PCI IDs that L1 has: names for some, so that both forms are seen.
const NAMES: &str = "1b36  Red Hat, Inc.\\n\\t0010  QEMU NVM Express Controller\\n\
    8086  Intel Corporation\\n\\t10d3  82574L Gigabit Network Connection\\n";

/// What `host list` must print for the machine of [`good`].
const LIST: &str = include_str!("golden/host-list.txt");

/// One of each: alone, two functions, two behind a bridge, a network card, a display, and a
/// controller with virtual functions behind a port.
fn good() -> Scenario {
    let mut second = Disk::new("function-1", 6);
    second.function = 1;
    let disks = [
        Disk::new("alone", 5),
        Disk::new("function-0", 6),
        second,
        Disk::wired("bridged-a", 1, Wiring::NvmeBehindBridge),
        Disk::wired("bridged-b", 2, Wiring::NvmeBehindBridge),
    ];
    let mut machine = Machine::with_device(&[
        "-netdev",
        "user,id=net,restrict=on",
        "-device",
        "e1000e,netdev=net,addr=9,romfile=",
        "-device",
        "VGA,addr=2",
        "-device",
        "pcie-root-port,id=above,chassis=1,addr=1c",
        "-device",
        "nvme-subsys,id=many",
        "-device",
        "nvme,serial=many,subsys=many,bus=above,max_ioqpairs=6,msix_qsize=7,\
         sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2",
    ]);
    machine.disks = disks.to_vec();
    let script = format!(
        "mkdir -p /usr/share/misc\n\
         printf '{NAMES}' >/usr/share/misc/pci.ids\n\
         bind_vfio 0000:00:05.0\n\
         bind_vfio 0000:00:06.0\n\
         run_vmm host list\n\
         run_vmm host list --all --json\n\
         run_vmm host check 0000:00:05.0\n\
         run_vmm host check 00:05.0 --json\n\
         disk=$(disk_of 0000:02:01.0)\n\
         mke2fs $disk >/dev/null\n\
         mkdir -p '/srv/my data'\n\
         mount -t ext4 $disk '/srv/my data'\n\
         mkswap $(disk_of 0000:02:02.0) >/dev/null\n\
         swapon $(disk_of 0000:02:02.0)\n\
         ip link set eth0 up\n\
         ip addr add 192.168.7.5/24 dev eth0\n\
         run_vmm host check 02:01.0 02:02.0 00:09.0 00:02.0\n\
         umount '/srv/my data'\n\
         swapoff /dev/$(basename $(disk_of 0000:02:02.0))\n\
         ip addr flush dev eth0; ip link set eth0 down\n\
         run_vmm host check 02:01.0 02:02.0 00:09.0\n"
    );
    Scenario {
        name: "host_check_and_list_on_a_good_machine",
        machine,
        kernel: Choice::Lab,
        image: Image::BzImage,
        script,
        limit: LIMIT,
        check: Box::new(|outcome| {
            let listed = run(outcome, 0)?;
            exit(&listed, 0)?;
            let text = output(&listed);
            expect(text == LIST, || {
                format!("the list is not golden/host-list.txt, but:\n{text}")
            })?;
            expect(text.lines().all(|line| line.chars().count() <= 80), || {
                format!("the list is wider than 80 columns:\n{text}")
            })?;
            list_for_programs(&json(&run(outcome, 1)?)?)?;

            let checked = run(outcome, 2)?;
            exit(&checked, 0)?;
            let text = output(&checked);
            for name in [
                "processor",
                "kvm",
                "iommu",
                "interrupt-remapping",
                "vfio-pci",
                "vfio-container",
                "iommufd",
                "memory",
                "memlock",
                "huge-pages",
                "addresses",
                "device",
                "group",
                "driver",
                "permission",
                "reset",
                "power",
                "rom",
                "in-use",
            ] {
                line(&text, "PASS", name, "")?;
            }
            line(&text, "PASS", "addresses", "16K of BARs")?;
            let report = json(&run(outcome, 3)?)?;
            let checks = report["checks"].as_array().map_or(0, Vec::len);
            let lines = text.lines().filter(|line| line.starts_with("PASS")).count();
            expect(report["good"] == true && checks == lines, || {
                format!("the JSON has {checks} checks for {lines} lines, or is not good")
            })?;

            let busy = run(outcome, 4)?;
            exit(&busy, 1)?;
            let text = output(&busy);
            let mend = line(&text, "FAIL", "in-use", "is mounted at /srv/my data")?;
            expect(mend == "as root: umount '/srv/my data'", || mend.into())?;
            let mend = line(&text, "FAIL", "in-use", "is swap space")?;
            expect(mend.starts_with("as root: swapoff /dev/nvme"), || {
                mend.into()
            })?;
            let mend = line(&text, "FAIL", "in-use", "eth0 has the address 192.168.7.5")?;
            let down = "as root: ip addr flush dev eth0; ip link set eth0 down";
            expect(mend == down, || mend.into())?;
            line(
                &text,
                "FAIL",
                "in-use",
                "the display that the firmware started with",
            )?;

            // Each was done as it was said.
            let idle = run(outcome, 5)?;
            exit(&idle, 0)?;
            let text = output(&idle);
            let free = text
                .lines()
                .filter(|line| line.starts_with("PASS  in-use "))
                .count();
            expect(free == 3, || format!("not all three are free:\n{text}"))
        }),
    }
}

fn list_for_programs(list: &Value) -> Result<()> {
    let devices = list["devices"].as_array().map_or(&[][..], Vec::as_slice);
    let find = |address: &str| {
        let mut found = devices.iter().filter(|d| d["address"] == address);
        found.next().cloned().unwrap_or_default()
    };
    for (address, field, value) in [
        ("0000:00:05.0", "state", Value::from("ready")),
        ("0000:00:05.0", "driver", "vfio-pci".into()),
        ("0000:00:05.0", "vendor_id", "1b36".into()),
        ("0000:00:05.0", "name", "QEMU NVM Express Controller".into()),
        ("0000:00:06.0", "state", "blocked".into()),
        ("0000:00:06.0", "held_by", vec!["0000:00:06.1"].into()),
        ("0000:00:06.1", "shared_with", vec!["0000:00:06.0"].into()),
        ("0000:00:09.0", "class", "020000".into()),
        ("0000:00:1e.0", "state", "bridge".into()),
    ] {
        let device = find(address);
        expect(device[field] == value, || {
            format!("{field} of {address} is {}, not {value}", device[field])
        })?;
    }
    let functions = devices
        .iter()
        .find(|d| d["virtual_functions"]["total"] == 2);
    expect(functions.is_some(), || {
        "no device has two virtual functions".into()
    })
}

fn bad(
    name: &'static str,
    machine: Machine,
    kernel: Choice,
    script: &str,
    check: lab::scenario::Check,
) -> Scenario {
    Scenario {
        name,
        machine,
        kernel,
        image: Image::BzImage,
        script: script.into(),
        limit: LIMIT,
        check,
    }
}

fn one_disk() -> Machine {
    Machine::with_disks(&[Disk::new("lab-disk", 5)])
}

fn no_iommu() -> Scenario {
    bad(
        "host_check_without_an_iommu",
        Machine {
            iommu: false,
            ..one_disk()
        },
        Choice::Stock,
        "run_vmm host check\nrun_vmm host check 00:05.0\nrun_vmm host list\n",
        Box::new(|outcome| {
            only(outcome, 0, "FAIL", "iommu", "AMD-Vi) on in the firmware")?;
            let text = output(&run(outcome, 1)?);
            line(&text, "FAIL", "group", "in no IOMMU group")?;
            let listed = run(outcome, 2)?;
            exit(&listed, 0)?;
            expect(output(&listed).contains("host check"), || output(&listed))
        }),
    )
}

/// The firmware describes an IOMMU; the kernel has been told not to use it.
fn iommu_off() -> Scenario {
    bad(
        "host_check_with_the_iommu_off",
        Machine {
            parameters: " intel_iommu=off",
            ..one_disk()
        },
        Choice::Lab,
        "run_vmm host check\n",
        Box::new(|outcome| only(outcome, 0, "FAIL", "iommu", "boot with intel_iommu=on")),
    )
}

/// What the check says of it, a run meets.
fn no_remapping() -> Scenario {
    bad(
        "host_check_without_interrupt_remapping",
        Machine {
            remapping: false,
            ..one_disk()
        },
        Choice::Lab,
        "bind_vfio 0000:00:05.0\n\
         run_vmm host check\n\
         run_vmm --kernel bzImage --initrd initrd --memory 256M --vfio 00:05.0\n\
         echo Y >/sys/module/iommufd/parameters/allow_unsafe_interrupts\n\
         run_vmm host check\n\
         run_vmm --kernel bzImage --initrd initrd --memory 256M --cmdline 'quiet panic=-1' \
         --vfio 00:05.0\n",
        Box::new(|outcome| {
            let name = "interrupt-remapping";
            let allow = "echo Y > /sys/module/iommufd/parameters/allow_unsafe_interrupts";
            only(outcome, 0, "FAIL", name, allow)?;
            exit(&run(outcome, 1)?, 1)?;
            only(outcome, 2, "WARN", name, "echo N > ")?;
            ended_well(&run(outcome, 3)?)
        }),
    )
}

/// The driver is not loaded, or not there; and of two functions in a group one is bound.
fn half_ready() -> Scenario {
    let mut second = Disk::new("function-1", 5);
    second.function = 1;
    bad(
        "host_check_on_a_host_half_ready",
        Machine::with_disks(&[Disk::new("function-0", 5), second]),
        Choice::Stock,
        "rmmod vfio_pci\n\
         run_vmm host check\n\
         tree=/lib/modules/$(uname -r)\n\
         mkdir -p $tree\n\
         cp /lib/lab-modules/*.ko $tree\n\
         depmod\n\
         run_vmm host check\n\
         modprobe vfio-pci\n\
         run_vmm host check\n\
         bind_vfio 0000:00:05.0\n\
         run_vmm host check 0000:00:05.0\n\
         echo 0000:00:05.1 >$sys/0000:00:05.1/driver/unbind\n\
         run_vmm host check 0000:00:05.0\n",
        Box::new(|outcome| {
            only(outcome, 0, "FAIL", "vfio-pci", "CONFIG_VFIO_PCI")?;
            only(outcome, 1, "WARN", "vfio-pci", "as root: modprobe vfio-pci")?;
            only(outcome, 2, "PASS", "vfio-pci", "")?;
            let bind = "as root: mini-vmm host bind 0000:00:05.0 --group";
            only(outcome, 3, "FAIL", "group-member", bind)?;
            let text = output(&run(outcome, 3)?);
            line(
                &text,
                "FAIL",
                "group-member",
                "0000:00:05.1 (NVMe controller) is bound to nvme",
            )?;
            only(outcome, 4, "PASS", "group-member", "")
        }),
    )
}

/// An ordinary user may do nothing of it at first; each remedy takes one failure away.
fn ordinary_user() -> Scenario {
    bad(
        "host_check_by_an_ordinary_user",
        one_disk(),
        Choice::Stock,
        "bind_vfio 0000:00:05.0\n\
         group=/dev/vfio/$(group_of 0000:00:05.0)\n\
         ulimit -l 1024\n\
         run_as user mini-vmm host check 0000:00:05.0\n\
         chmod 660 /dev/kvm; chgrp user /dev/kvm\n\
         chown user $group\n\
         ulimit -l 589824\n\
         run_as user mini-vmm host check 0000:00:05.0\n\
         ulimit -l 1024\n\
         run_vmm host check 0000:00:05.0\n",
        Box::new(|outcome| {
            let first = run(outcome, 0)?;
            exit(&first, 1)?;
            let text = output(&first);
            line(
                &text,
                "FAIL",
                "kvm",
                "/dev/kvm may not be used by this user",
            )?;
            let mend = line(&text, "FAIL", "permission", "/dev/vfio/")?;
            expect(mend.starts_with("as root: chown $USER /dev/vfio/"), || {
                mend.into()
            })?;
            let mend = line(&text, "FAIL", "memlock", "this user may lock 1M of memory")?;
            expect(mend.contains("ulimit -l 589824"), || mend.into())?;
            only(outcome, 1, "PASS", "memlock", "")?;
            // The limit does not bind root.
            only(outcome, 2, "PASS", "memlock", "")
        }),
    )
}
