//! `host check` and `host list` on real sysfs: on a machine that is ready, and on machines that
//! lack one thing each. Where a line of the check names a remedy, the script applies the remedy,
//! and the next check must pass.

use lab::disk::{Controller, Disk};
use lab::error::{Error, Result};
use lab::expect::{ended_well, exit, expect, run};
use lab::kernel::Choice;
use lab::machine::NETWORK_CARD;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::Run;
use serde_json::Value;

const DISK: Disk = Disk::new("lab-disk", 5);

pub fn all() -> Vec<Scenario> {
    vec![
        good(),
        Scenario::new("host_check_without_an_iommu")
            .kernel(Choice::Stock)
            .machine(|l1| l1.iommu = false)
            .disk(DISK)
            .script(
                "run_vmm host check\nrun_vmm host check 00:05.0\nrun_vmm host list\n",
                no_iommu,
            ),
        // VFIO's no-IOMMU mode gives every device a group that isolates nothing.
        Scenario::new("a_device_in_no_iommu_mode_is_refused")
            .machine(|l1| {
                l1.iommu = false;
                l1.parameters = " vfio.enable_unsafe_noiommu_mode=1";
            })
            .disk(DISK)
            .script(
                "bind_vfio 0000:00:05.0\n\
                 run_vmm host check 00:05.0\n\
                 run_vmm $boot --memory 256M --vfio 00:05.0\n\
                 run_vmm explain --vfio 00:05.0\n\
                 run_vmm host bind 00:05.0\n\
                 run_vmm host list\n\
                 give_back 0000:00:05.0\n",
                no_iommu_mode,
            ),
        // Functions of the chipset with the class of a bridge and a header of type 0, in one group.
        Scenario::new("an_endpoint_of_a_bridges_class_is_bound").script(
            "run_vmm host check 00:1f.0\n\
             run_vmm host bind 00:1f.0 --group\n\
             run_vmm host check 00:1f.0\n\
             run_vmm host unbind 00:1f.0\n",
            bridges_by_class,
        ),
        // The firmware describes an IOMMU, but a kernel parameter turns it off.
        Scenario::new("host_check_with_the_iommu_off")
            .machine(|l1| l1.parameters = " intel_iommu=off")
            .disk(DISK)
            .script("run_vmm host check\n", |outcome| {
                only(outcome, 0, "FAIL", "iommu", "boot with intel_iommu=on")
            }),
        Scenario::new("host_check_without_interrupt_remapping")
            .machine(|l1| l1.remapping = false)
            .disk(DISK)
            .script(NO_REMAPPING, no_remapping),
        Scenario::new("host_check_on_a_host_half_ready")
            .kernel(Choice::Stock)
            .disk(Disk::new("function-0", 5))
            .disk(Disk::new("function-1", 5).at_function(1))
            .script(HALF_READY, half_ready),
        Scenario::new("host_check_by_an_ordinary_user")
            .kernel(Choice::Stock)
            .disk(DISK)
            .script(ORDINARY_USER, ordinary_user),
    ]
}

fn json(run: &Run<'_>) -> Result<Value> {
    serde_json::from_str(&run.output())
        .map_err(|e| Error::failed(format!("\"{}\" wrote no JSON: {e}", run.command())))
}

/// Finds the check's line of a level and a name, and returns the remedy below that line, which
/// follows an arrow.
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
    let remedy = lines
        .take_while(|line| line.starts_with(' '))
        .find_map(|line| line.trim().strip_prefix("→ "));
    expect(remedy.is_some() == (level != "PASS"), || {
        format!("\"{found}\" has no remedy, or has one although it passes")
    })?;
    Ok(remedy.unwrap_or_default())
}

/// The check has this line, nothing else fails, and the exit status agrees.
fn only(outcome: &Outcome, index: usize, level: &str, name: &str, remedy: &str) -> Result<()> {
    let run = run(outcome, index)?;
    let text = run.output();
    exit(&run, i32::from(level == "FAIL"))?;
    let said = line(&text, level, name, "")?;
    expect(said.contains(remedy), || {
        format!("{name} says \"{said}\" without \"{remedy}\"")
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

/// L1's list of PCI IDs: names for some devices only, so that the output has both forms.
const NAMES: &str = "1b36  Red Hat, Inc.\\n\\t0010  QEMU NVM Express Controller\\n\
    8086  Intel Corporation\\n\\t10d3  82574L Gigabit Network Connection\\n";

/// What `host list` must print for the machine of [`good`].
const LIST: &str = include_str!("golden/host-list.txt");

/// One of each: alone, two functions, two behind a bridge, a network card, a display, and a
/// controller with virtual functions behind a port.
fn good() -> Scenario {
    Scenario::new("host_check_and_list_on_a_good_machine")
        .disk(Disk::new("alone", 5))
        .disk(Disk::new("function-0", 6))
        .disk(Disk::new("function-1", 6).at_function(1))
        .disk(Disk::behind("bridged-a", 1, Controller::NvmeBehindBridge))
        .disk(Disk::behind("bridged-b", 2, Controller::NvmeBehindBridge))
        .qemu(&NETWORK_CARD)
        .qemu(&[
            "-device",
            "VGA,addr=2",
            "-device",
            "pcie-root-port,id=above,chassis=1,addr=1c",
            "-device",
            "nvme-subsys,id=many",
            "-device",
            "nvme,serial=many,subsys=many,bus=above,max_ioqpairs=6,msix_qsize=7,\
             sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2",
        ])
        .script(good_script(), |outcome| {
            lists(outcome)?;
            checks(outcome)?;
            used_devices(outcome)
        })
}

fn good_script() -> String {
    format!(
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
    )
}

fn lists(outcome: &Outcome) -> Result<()> {
    let listed = run(outcome, 0)?;
    exit(&listed, 0)?;
    let text = listed.output();
    expect(text == LIST, || {
        format!("the list is not golden/host-list.txt, but:\n{text}")
    })?;
    expect(text.lines().all(|line| line.chars().count() <= 80), || {
        format!("the list is wider than 80 columns:\n{text}")
    })?;
    list_for_programs(&json(&run(outcome, 1)?)?)
}

fn checks(outcome: &Outcome) -> Result<()> {
    let checked = run(outcome, 2)?;
    exit(&checked, 0)?;
    let text = checked.output();
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
        "bars",
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
    })
}

/// The host uses the devices. Then the script applies each remedy that the check names.
fn used_devices(outcome: &Outcome) -> Result<()> {
    let busy = run(outcome, 4)?;
    exit(&busy, 1)?;
    let text = busy.output();
    let remedy = line(&text, "FAIL", "in-use", "is mounted at /srv/my data")?;
    expect(remedy == "as root: umount '/srv/my data'", || remedy.into())?;
    let remedy = line(&text, "FAIL", "in-use", "is swap space")?;
    expect(remedy.starts_with("as root: swapoff /dev/nvme"), || {
        remedy.into()
    })?;
    let remedy = line(&text, "FAIL", "in-use", "eth0 has the address 192.168.7.5")?;
    let down = "as root: ip addr flush dev eth0; ip link set eth0 down";
    expect(remedy == down, || remedy.into())?;
    let display = "the display that the firmware started with";
    line(&text, "FAIL", "in-use", display)?;

    let idle = run(outcome, 5)?;
    exit(&idle, 0)?;
    let text = idle.output();
    let free = text
        .lines()
        .filter(|line| line.starts_with("PASS  in-use "))
        .count();
    expect(free == 3, || format!("not all three are free:\n{text}"))
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

fn no_iommu(outcome: &Outcome) -> Result<()> {
    only(outcome, 0, "FAIL", "iommu", "AMD-Vi) on in the firmware")?;
    let text = run(outcome, 1)?.output();
    line(&text, "FAIL", "group", "in no IOMMU group")?;
    let listed = run(outcome, 2)?;
    exit(&listed, 0)?;
    expect(listed.output().contains("host check"), || listed.output())
}

fn no_iommu_mode(outcome: &Outcome) -> Result<()> {
    let checked = run(outcome, 0)?;
    exit(&checked, 1)?;
    let text = checked.output();
    line(&text, "FAIL", "iommu", "")?;
    line(&text, "FAIL", "group", "no-IOMMU mode")?;
    // `explain` reports the problem, and does not fail.
    for (index, status) in [(1, 1), (2, 0), (3, 1)] {
        let refused = run(outcome, index)?;
        exit(&refused, status)?;
        let messages: Vec<_> = refused.messages().collect();
        let text = refused.output() + &messages.join("\n");
        expect(
            text.contains("no-IOMMU mode") && text.contains("turn the IOMMU on"),
            || text,
        )?;
    }
    Ok(())
}

fn bridges_by_class(outcome: &Outcome) -> Result<()> {
    let checked = run(outcome, 0)?;
    let text = checked.output();
    line(&text, "PASS", "device", "ISA bridge [8086:2918]")?;
    exit(&run(outcome, 1)?, 0)?;
    let bound = run(outcome, 2)?;
    exit(&bound, 0)?;
    line(&bound.output(), "PASS", "driver", "vfio-pci")?;
    line(&bound.output(), "PASS", "group-member", "0000:00:1f.2")?;
    exit(&run(outcome, 3)?, 0)
}

const NO_REMAPPING: &str = "\
bind_vfio 0000:00:05.0
run_vmm host check
run_vmm $boot --memory 256M --vfio 00:05.0
echo Y >/sys/module/iommufd/parameters/allow_unsafe_interrupts
run_vmm host check
run_vmm $boot --memory 256M --cmdline \"$cmdline\" --vfio 00:05.0
";

/// A guest starts only after the script has applied the remedy that the check names.
fn no_remapping(outcome: &Outcome) -> Result<()> {
    let name = "interrupt-remapping";
    let allow = "echo Y > /sys/module/iommufd/parameters/allow_unsafe_interrupts";
    only(outcome, 0, "FAIL", name, allow)?;
    exit(&run(outcome, 1)?, 1)?;
    only(outcome, 2, "WARN", name, "echo N > ")?;
    ended_well(&run(outcome, 3)?)
}

const HALF_READY: &str = "\
rmmod vfio_pci
run_vmm host check
tree=/lib/modules/$(uname -r)
mkdir -p $tree
cp /lib/lab-modules/*.ko $tree
depmod
run_vmm host check
modprobe vfio-pci
run_vmm host check
bind_vfio 0000:00:05.0
run_vmm host check 0000:00:05.0
echo 0000:00:05.1 >$sys/0000:00:05.1/driver/unbind
run_vmm host check 0000:00:05.0
";

/// First the driver is missing; then it is not loaded; then only one of two functions of a group is
/// bound.
fn half_ready(outcome: &Outcome) -> Result<()> {
    only(outcome, 0, "FAIL", "vfio-pci", "CONFIG_VFIO_PCI")?;
    only(outcome, 1, "WARN", "vfio-pci", "as root: modprobe vfio-pci")?;
    only(outcome, 2, "PASS", "vfio-pci", "")?;
    let bind = "as root: mini-vmm host bind 0000:00:05.0 --group";
    only(outcome, 3, "FAIL", "group-member", bind)?;
    let text = run(outcome, 3)?.output();
    let bound = "0000:00:05.1 (NVMe controller) is bound to nvme";
    line(&text, "FAIL", "group-member", bound)?;
    only(outcome, 4, "PASS", "group-member", "")
}

const ORDINARY_USER: &str = "\
bind_vfio 0000:00:05.0
group=/dev/vfio/$(group_of 0000:00:05.0)
ulimit -l 1024
run_as user mini-vmm host check 0000:00:05.0
chmod 660 /dev/kvm; chgrp user /dev/kvm
chown user $group
ulimit -l 589824
run_as user mini-vmm host check 0000:00:05.0
ulimit -l 1024
run_vmm host check 0000:00:05.0
";

/// The user may use neither KVM nor the device, and may lock too little memory. After the remedies,
/// every check passes.
fn ordinary_user(outcome: &Outcome) -> Result<()> {
    let first = run(outcome, 0)?;
    exit(&first, 1)?;
    let text = first.output();
    let kvm = "/dev/kvm may not be used by this user";
    line(&text, "FAIL", "kvm", kvm)?;
    let remedy = line(&text, "FAIL", "permission", "/dev/vfio/")?;
    expect(
        remedy.starts_with("as root: chown $USER /dev/vfio/"),
        || remedy.into(),
    )?;
    let remedy = line(&text, "FAIL", "memlock", "this user may lock 1M of memory")?;
    expect(remedy.contains("ulimit -l 589824"), || remedy.into())?;
    only(outcome, 1, "PASS", "memlock", "")?;
    // The limit does not apply to root.
    only(outcome, 2, "PASS", "memlock", "")
}
