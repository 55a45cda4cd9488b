//! `host bind` and `host unbind` on the real kernel: round trips, refusals, a failure half-way, a
//! guest of an ordinary user, and virtual functions. Each time the host gets its devices back.

use lab::Result;
use lab::disk::{Controller, Disk};
use lab::expect::{back, back_with_guest_text, ended_well, expect, run, worked};
use lab::machine::NETWORK_CARD;
use lab::outcome::Outcome;
use lab::scenario::Scenario;

const CARD: &str = "0000:00:09.0";
const DISPLAY: &str = "0000:00:02.0";
/// An NVMe controller that can make virtual functions.
const PF: &str = "0000:01:00.0";

const DISK: Disk = Disk::new("lab-disk", 5);

/// Two functions of one device, which form one group.
const GROUP: [Disk; 2] = [
    Disk::new("first-function", 6),
    Disk::new("second-function", 6).at_function(1),
];

/// Disks of all kinds of groups.
const DISKS: [Disk; 5] = [
    Disk::new("alone", 5),
    Disk::new("first-function", 6),
    Disk::new("second-function", 6).at_function(1),
    Disk::behind("first-bridged", 1, Controller::NvmeBehindBridge),
    Disk::behind("second-bridged", 2, Controller::NvmeBehindBridge),
];

/// Disks, two of which the host uses.
const USED: [Disk; 3] = [
    Disk::new("mounted", 5),
    Disk::new("swap", 6),
    Disk::new("part-of-group", 7),
];

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("bind_and_unbind_round_trips")
            .disks(&DISKS)
            .qemu(&NETWORK_CARD)
            .script(round_trips(), check_round_trips),
        Scenario::new("what_the_host_uses_is_not_taken")
            .disks(&USED)
            .qemu(&NETWORK_CARD)
            .qemu(&["-device", "VGA,addr=2"])
            .script(in_use(), check_in_use),
        Scenario::new("a_group_is_bound_whole_or_not_at_all")
            .disks(&GROUP)
            .script(half_way(), check_half_way),
        Scenario::new("a_bind_that_is_killed_is_recovered")
            .disks(&GROUP)
            .script(killed(), check_killed),
        Scenario::new("an_ordinary_user_boots_a_guest")
            .disk(DISK)
            .script(ordinary_user(), check_ordinary_user),
        Scenario::new("virtual_functions_come_and_go")
            .qemu(&[
                "-device",
                "pcie-root-port,id=slot1,chassis=1,slot=1,addr=3",
                "-device",
                "nvme-subsys,id=subsystem",
                "-device",
                "nvme,serial=physical,subsys=subsystem,bus=slot1,sriov_max_vfs=2,\
                 sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=7",
            ])
            .script(virtual_functions(), check_virtual_functions),
    ]
}

/// The exit statuses of the commands, in order.
fn exits(outcome: &Outcome, wanted: &[&str]) -> Result<()> {
    let exits: Vec<_> = outcome.transcript.lab("host-exit").collect();
    expect(exits == wanted, || {
        format!("the host's commands ended with {exits:?} instead of {wanted:?}")
    })
}

/// Expects a line with all these words in the commands' output. `key`: host-out or host-err.
fn said(outcome: &Outcome, key: &str, words: &[&str]) -> Result<()> {
    let lines: Vec<_> = outcome.transcript.lab(key).collect();
    let found = lines
        .iter()
        .any(|line| words.iter().all(|word| line.contains(word)));
    expect(found, || format!("no {key} says {words:?}: {lines:?}"))
}

/// Expects that the script printed this fact.
fn saw(outcome: &Outcome, fact: &str) -> Result<()> {
    let (key, rest) = fact.split_once(' ').unwrap_or((fact, ""));
    let seen: Vec<_> = outcome.transcript.lab(key).collect();
    expect(seen.contains(&rest), || {
        format!("L1 never saw \"{fact}\", but {seen:?}")
    })
}

/// Expects that at each of these points all devices had their first drivers, and no record was
/// left.
fn unchanged(outcome: &Outcome, states: &[&str]) -> Result<()> {
    states
        .iter()
        .try_for_each(|state| saw(outcome, &format!("state {state} same records=0")))
}

fn round_trips() -> String {
    let [alone, first, second, bridged, beside] = [0, 1, 2, 3, 4].map(|n| DISKS[n].bdf());
    format!(
        "drivers >/run/drivers\n\
         now() {{ say now $(for d in \"$@\"; do driver_of $d; done); }}\n\
         host bind 00:05.0\nnow {alone}\nhost bind {alone}\n\
         host unbind $sys/{alone}\nsay_back {alone}\nstate one\n\
         host bind {CARD}\nnow {CARD}\nhost unbind {CARD}\n\
         say net $(ls $sys/{CARD}/net)\nstate card\n\
         host bind {first}\nhost bind {first} --group\nnow {first} {second}\n\
         host unbind {first}\nsay_back {first}\nsay_back {second}\nstate functions\n\
         host bind {first} {second}\nhost unbind {first}\nhost unbind {second}\n\
         state functions-by-name\n\
         host bind {bridged} --group\nnow {bridged} {beside} 0000:00:1e.0\n\
         host unbind {bridged}\nsay_back {bridged}\nsay_back {beside}\nstate bridged\n\
         host bind {alone}\nhost unbind {CARD} {alone}\n\
         host bind 0000:00:1e.0\nhost unbind {alone}\nhost bind 0000:00:1d.0\nstate refused\n\
         mini-vmm host bind {alone} --dry-run | sh\nnow {alone}\n\
         host unbind {alone}\nstate by-hand\n"
    )
}

fn check_round_trips(outcome: &Outcome) -> Result<()> {
    exits(
        outcome,
        &[
            "0", "0", "0", // one, twice, and back
            "0", "0", // the card
            "1", "0", "0", // a function without and with its group
            "0", "0", "0", // both by name
            "0", "0", // behind a bridge
            "0", "1", // unbind two, one of which was never bound
            "1", "1", "1", // refusals
            "0", // bound by hand
        ],
    )?;
    unchanged(
        outcome,
        &[
            "one",
            "card",
            "functions",
            "functions-by-name",
            "bridged",
            "refused",
            "by-hand",
        ],
    )?;
    saw(outcome, "now vfio-pci vfio-pci")?;
    let now: Vec<_> = outcome.transcript.lab("now").collect();
    // The bridge, which comes last, keeps its driver.
    let bridged = now.get(3).copied().unwrap_or_default();
    expect(
        bridged.starts_with("vfio-pci vfio-pci ") && bridged != "vfio-pci vfio-pci vfio-pci",
        || format!("the group behind the bridge has wrong drivers: {now:?}"),
    )?;
    expect(now.iter().all(|n| n.starts_with("vfio-pci")), || {
        format!("a device is not on vfio-pci: {now:?}")
    })?;
    saw(outcome, "net eth0")?;
    for words in [
        "0000:00:05.0: nvme -> vfio-pci",
        "0000:00:05.0: bound to vfio-pci already",
        "0000:00:05.0: back with nvme",
    ] {
        said(outcome, "host-out", &[words])?;
    }
    said(outcome, "host-err", &["hint: ", "--group"])?;
    said(outcome, "host-err", &["0000:00:1e.0 is a bridge"])?;
    said(outcome, "host-err", &["not bound to vfio-pci"])?;
    for disk in &DISKS {
        disk.check_untouched(&outcome.image(disk.serial))?;
        back(outcome, disk)?;
    }
    Ok(())
}

fn in_use() -> String {
    let [mounted, swap, other] = [0, 1, 2].map(|n: usize| USED[n].bdf());
    format!(
        "drivers >/run/drivers\nmkdir -p /mnt\n\
         disk=$(disk_of {mounted})\nmke2fs $disk >/dev/null\nmount -t ext4 $disk /mnt\n\
         echo precious >/mnt/file\n\
         host bind {mounted}\nhost bind {other} {mounted}\nstate mounted\n\
         say file $(cat /mnt/file)\n\
         run_vmm $boot --vfio {mounted},managed=on\nstate managed\n\
         umount /mnt\nhost bind {mounted}\nsay free $(driver_of {mounted})\n\
         host unbind {mounted}\n\
         disk=$(disk_of {mounted})\nmount -t ext4 $disk /mnt\n\
         say file-after $(cat /mnt/file)\numount /mnt\n\
         disk=$(disk_of {swap})\nmkswap $disk >/dev/null\nswapon $disk\n\
         host bind {swap}\nstate swap\nswapoff $disk\n\
         ip addr add 10.0.2.15/24 dev eth0\nhost bind {CARD}\nstate no-route\n\
         ip link set eth0 up\nhost bind {CARD}\nstate card\n\
         host bind {DISPLAY}\nstate display\n\
         host bind {CARD} --force\nsay forced $(driver_of {CARD})\nhost unbind {CARD}\nstate end\n"
    )
}

fn check_in_use(outcome: &Outcome) -> Result<()> {
    let refused = ["1", "1", "0", "0", "1", "1", "1", "1", "0", "0"];
    exits(outcome, &refused)?;
    unchanged(
        outcome,
        &[
            "mounted", "managed", "swap", "no-route", "card", "display", "end",
        ],
    )?;
    for fact in [
        "file precious",
        "free vfio-pci",
        "file-after precious",
        "forced vfio-pci",
    ] {
        saw(outcome, fact)?;
    }
    for words in [
        &["in use", "mounted at /mnt"][..],
        &["hint: ", "umount '/mnt'", "--force"],
        &["in use", "swap"],
        &["in use", "eth0 has the address 10.0.2.15"],
        &["in use", "display that the firmware"],
    ] {
        said(outcome, "host-err", words)?;
    }
    let managed = run(outcome, 0)?;
    expect(
        managed.exit() == Some(1) && managed.messages().any(|m| m.contains("mounted at /mnt")),
        || "a run bound a mounted disk".into(),
    )
}

/// The second function of the group cannot be bound, in two ways: the kernel refuses the write to
/// driver_override, and the write has no effect, so that the function's own driver gets it again.
fn half_way() -> String {
    let [first, second] = [0, 1].map(|n: usize| GROUP[n].bdf());
    format!(
        "drivers >/run/drivers\n\
         echo '(null)' >/run/nothing\ncover=$(readlink -f $sys/{second})/driver_override\n\
         mount --bind /run/nothing $cover\nmount -o remount,bind,ro $cover\n\
         host bind {first} --group\numount $cover\nstate refused\n\
         mount --bind /run/nothing $cover\n\
         host bind {first} --group\numount $cover\nstate ignored\n\
         say_back {first}\nsay_back {second}\n\
         host bind {first} --group\nhost unbind {first}\nstate end\n"
    )
}

fn check_half_way(outcome: &Outcome) -> Result<()> {
    exits(outcome, &["1", "1", "0", "0"])?;
    unchanged(outcome, &["refused", "ignored", "end"])?;
    for words in [
        ["cannot write `vfio-pci`", "0000:00:06.1", "undone"],
        [
            "vfio-pci did not bind PCI device 0000:00:06.1",
            "has the driver nvme",
            "undone",
        ],
    ] {
        said(outcome, "host-err", &words)?;
    }
    GROUP.iter().try_for_each(|disk| back(outcome, disk))
}

/// A FIFO in place of drivers_probe stops a bind after the unbind of the host's driver and before
/// vfio-pci. SIGKILL arrives then. The next command of any kind recovers from the bind; a run's
/// guardian process recovers from the run.
fn killed() -> String {
    let [first, second] = [0, 1].map(|n: usize| GROUP[n].bdf());
    format!(
        "drivers >/run/drivers\nmkfifo /run/wait\nprobe=/sys/bus/pci/drivers_probe\n\
         stopped() {{\n\
         for _ in $(seq 100); do [ $(driver_of {first}) = none ] && break; sleep 0.1; done\n\
         say stopped $(driver_of {first}) $(cat $sys/{first}/driver_override)\n\
         }}\n\
         mount --bind /run/wait $probe\n\
         mini-vmm host bind {first} --group & pid=$!\nstopped\n\
         kill -KILL $pid\nwait $pid || say killed $?\n\
         host unbind {second}\nstate recovered\nsay_back {first}\nsay_back {second}\n\
         start_as '' mini-vmm $boot --vfio {first},managed=on --vfio {second},managed=on\n\
         stopped\nkill -KILL $vmm_pid\nwait_vmm\nawait_driver {first} nvme\nsay_back {first}\n\
         umount $probe\nstate run\n\
         host bind {first} --group\nhost unbind {first}\nstate end\n"
    )
}

fn check_killed(outcome: &Outcome) -> Result<()> {
    let stopped: Vec<_> = outcome.transcript.lab("stopped").collect();
    expect(stopped == ["none vfio-pci"; 2], || {
        format!("SIGKILL came when driver and driver_override were {stopped:?}")
    })?;
    saw(outcome, "killed 137")?;
    // The killed bind had claimed both devices before it touched the first, so `unbind` gives back
    // the second, too.
    exits(outcome, &["0", "0", "0"])?;
    for bdf in ["0000:00:06.0", "0000:00:06.1"] {
        let killed = format!("killed while it had PCI device {bdf}");
        said(outcome, "host-err", &[&killed])?;
    }
    unchanged(outcome, &["recovered", "run", "end"])?;
    GROUP.iter().try_for_each(|disk| back(outcome, disk))
}

/// An ordinary user runs a guest by group and container, and by iommufd. The script runs only the
/// commands and sets only the permissions that `host bind` names.
fn ordinary_user() -> String {
    let bdf = DISK.bdf();
    let vmm =
        format!("run_as user mini-vmm $boot --memory 256M --cmdline \"$cmdline\" --vfio {bdf}");
    format!(
        "drivers >/run/drivers\nulimit -l unlimited\n\
         owners() {{\n\
         say owners $(stat -c %u /dev/vfio/$(group_of {bdf}) /dev/vfio/devices/*)\n\
         }}\n\
         host bind {bdf}\nowners\n{vmm}\n\
         host bind {bdf} --user user\nowners\n\
         chmod 666 /dev/kvm\n{vmm}\n\
         chmod 666 /dev/iommu\n{vmm} --iommu iommufd\n\
         host unbind {bdf}\nsay_back {bdf}\nstate end\n\
         host bind {bdf}\nowners\nhost unbind {bdf}\n"
    )
}

fn check_ordinary_user(outcome: &Outcome) -> Result<()> {
    exits(outcome, &["0", "0", "0", "0", "0"])?;
    let owners: Vec<_> = outcome.transcript.lab("owners").collect();
    expect(owners == ["0 0", "1000 1000", "0 0"], || {
        format!("the nodes had the owners {owners:?}")
    })?;
    let refused = run(outcome, 0)?;
    expect(refused.exit() == Some(1), || {
        "a user without --user got the device".into()
    })?;
    said(outcome, "host-out", &["user may open /dev/vfio/"])?;
    said(outcome, "host-out", &["note: ", "/dev/kvm"])?;
    said(outcome, "host-out", &["note: ", "ulimit -l"])?;
    for index in [1, 2] {
        let run = run(outcome, index)?;
        ended_well(&run)?;
        worked(outcome, &run, &DISK)?;
    }
    unchanged(outcome, &["end"])?;
    back_with_guest_text(outcome, &DISK)
}

/// An NVMe controller makes two virtual functions, which `host unbind` removes.
fn virtual_functions() -> String {
    format!(
        "drivers >/run/drivers\n\
         functions() {{\n\
         for f in $sys/{PF}/virtfn*; do driver_of $(basename $(readlink $f)); done\n\
         }}\n\
         host bind {PF} --vfs 2\nsay functions $(functions)\nsay physical $(driver_of {PF})\n\
         host bind {PF} --vfs 1\n\
         vf=$(basename $(readlink $sys/{PF}/virtfn1))\n\
         sleep 60 </dev/vfio/$(group_of $vf) & holder=$!\nsleep 0.2\n\
         host unbind {PF}\nsay held $(functions)\nkill $holder\nwait $holder || :\n\
         host unbind {PF}\nstate end\n\
         mini-vmm host bind {PF} --vfs 2 --user user --dry-run >/run/by-hand\n\
         sh -e /run/by-hand\n\
         say by-hand $(functions) $(stat -c %u /dev/vfio/$(group_of $vf) /dev/vfio/devices/*)\n\
         echo 0 >$sys/{PF}/sriov_numvfs\nstate by-hand\n\
         host bind {PF} --vfs 3\n\
         say probe $(cat $sys/{PF}/sriov_drivers_autoprobe)\nstate refused\n"
    )
}

fn check_virtual_functions(outcome: &Outcome) -> Result<()> {
    exits(outcome, &["0", "1", "1", "0", "1"])?;
    unchanged(outcome, &["end", "by-hand", "refused"])?;
    for fact in [
        "functions vfio-pci vfio-pci",
        "held vfio-pci vfio-pci",
        "by-hand vfio-pci vfio-pci 1000 1000 1000",
        "physical nvme",
        "probe 1",
    ] {
        saw(outcome, fact)?;
    }
    for words in [
        &["would be removed", "sleep (process "][..],
        &["has 2 virtual functions already"],
        &["2 virtual functions at most, not 3"],
    ] {
        said(outcome, "host-err", words)?;
    }
    Ok(())
}
