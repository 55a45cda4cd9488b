//! `host bind` and `host unbind` on the real kernel: round trips, refusals, a failure half-way, a
//! guest of an ordinary user's, and virtual functions. Each time the host has its devices again.

use std::time::Duration;

use lab::Result;
use lab::disk::{Disk, Wiring};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Outcome, Scenario};

use lab::expect::{back, back_with_guest_text, ended_well, expect, run, worked};

const LIMIT: Duration = Duration::from_secs(150);
const CARD: &str = "0000:00:09.0";
const DISPLAY: &str = "0000:00:02.0";

pub fn all() -> Vec<Scenario> {
    vec![
        round_trips(),
        in_use(),
        half_way(),
        killed(),
        ordinary_user(),
        virtual_functions(),
    ]
}

fn scenario(
    name: &'static str,
    machine: Machine,
    script: String,
    check: lab::scenario::Check,
) -> Scenario {
    Scenario {
        name,
        machine,
        kernel: Choice::Lab,
        image: Image::BzImage,
        script,
        limit: LIMIT,
        check,
    }
}

/// A network card, besides the disks.
fn with_card(disks: &[Disk]) -> Machine {
    Machine {
        extra: [
            "-netdev",
            "user,id=net,restrict=on",
            "-device",
            "e1000e,netdev=net,addr=9,romfile=",
        ]
        .map(String::from)
        .to_vec(),
        ..Machine::with_disks(disks)
    }
}

fn with_display(mut machine: Machine) -> Machine {
    let display = ["-device", "VGA,addr=2"].map(String::from);
    machine.extra.extend(display);
    machine
}

/// How the commands ended, in order.
fn exits(outcome: &Outcome, wanted: &[&str]) -> Result<()> {
    let exits: Vec<_> = outcome.transcript.lab("host-exit").collect();
    expect(exits == wanted, || {
        format!("the host's commands ended with {exits:?} instead of {wanted:?}")
    })
}

/// A line of what the commands said.
fn said(outcome: &Outcome, key: &str, words: &[&str]) -> Result<()> {
    let lines: Vec<_> = outcome.transcript.lab(key).collect();
    let found = lines
        .iter()
        .any(|line| words.iter().all(|word| line.contains(word)));
    expect(found, || format!("no {key} says {words:?}: {lines:?}"))
}

/// What the script saw, word for word.
fn saw(outcome: &Outcome, fact: &str) -> Result<()> {
    let (key, rest) = fact.split_once(' ').unwrap_or((fact, ""));
    let seen: Vec<_> = outcome.transcript.lab(key).collect();
    expect(seen.contains(&rest), || {
        format!("L1 never saw \"{fact}\", but {seen:?}")
    })
}

fn round_trips() -> Scenario {
    let mut second = Disk::new("second-function", 6);
    second.function = 1;
    let disks = [
        Disk::new("alone", 5),
        Disk::new("first-function", 6),
        second,
        Disk::wired("first-bridged", 1, Wiring::NvmeBehindBridge),
        Disk::wired("second-bridged", 2, Wiring::NvmeBehindBridge),
    ];
    let [alone, first, second, bridged, beside] = [0, 1, 2, 3, 4].map(|n| disks[n].bdf());
    let script = format!(
        "drivers >/run/drivers\n\
         now() {{ say now $(for d in \"$@\"; do driver_of $d; done); }}\n\
         host bind 00:05.0\nnow {alone}\nhost bind {alone}\nhost unbind $sys/{alone}\nsay_back {alone}\nstate one\n\
         host bind {CARD}\nnow {CARD}\nhost unbind {CARD}\n\
         say net $(ls $sys/{CARD}/net)\nstate card\n\
         host bind {first}\nhost bind {first} --group\nnow {first} {second}\n\
         host unbind {first}\nsay_back {first}\nsay_back {second}\nstate functions\n\
         host bind {first} {second}\nhost unbind {first}\nhost unbind {second}\nstate functions-by-name\n\
         host bind {bridged} --group\nnow {bridged} {beside} 0000:00:1e.0\n\
         host unbind {bridged}\nsay_back {bridged}\nsay_back {beside}\nstate bridged\n\
         host bind {alone}\nhost unbind {CARD} {alone}\n\
         host bind 0000:00:1e.0\nhost unbind {alone}\nhost bind 0000:00:1d.0\nstate refused\n\
         mini-vmm host bind {alone} --dry-run | sh\nnow {alone}\nhost unbind {alone}\nstate by-hand\n"
    );
    scenario(
        "bind_and_unbind_round_trips",
        with_card(&disks),
        script,
        Box::new(move |outcome| {
            exits(
                outcome,
                &[
                    "0", "0", "0", // one, twice, and back
                    "0", "0", // the card
                    "1", "0", "0", // a function without and with its group
                    "0", "0", "0", // both by name
                    "0", "0", // behind a bridge
                    "0", "1", // two back, of which one was never taken
                    "1", "1", "1", // refusals
                    "0", // what was bound by hand
                ],
            )?;
            for what in [
                "one",
                "card",
                "functions",
                "functions-by-name",
                "bridged",
                "refused",
                "by-hand",
            ] {
                saw(outcome, &format!("state {what} same records=0"))?;
            }
            saw(outcome, "now vfio-pci vfio-pci")?;
            let now: Vec<_> = outcome.transcript.lab("now").collect();
            let bridged = now.get(3).copied().unwrap_or_default();
            expect(
                bridged.starts_with("vfio-pci vfio-pci ")
                    && bridged != "vfio-pci vfio-pci vfio-pci",
                || format!("the group behind the bridge went wrong: {now:?}"),
            )?;
            expect(now.iter().all(|n| n.starts_with("vfio-pci")), || {
                format!("a device is not on vfio-pci: {now:?}")
            })?;
            saw(outcome, "net eth0")?;
            said(outcome, "host-out", &["0000:00:05.0: nvme -> vfio-pci"])?;
            said(
                outcome,
                "host-out",
                &["0000:00:05.0: bound to vfio-pci already"],
            )?;
            said(outcome, "host-out", &["0000:00:05.0: back with nvme"])?;
            said(outcome, "host-err", &["hint: ", "--group"])?;
            said(outcome, "host-err", &["0000:00:1e.0 is a bridge"])?;
            said(outcome, "host-err", &["not bound to vfio-pci"])?;
            for disk in &disks {
                disk.check_untouched(&outcome.image(disk.serial))?;
                back(outcome, disk)?;
            }
            Ok(())
        }),
    )
}

fn in_use() -> Scenario {
    let disks = [
        Disk::new("mounted", 5),
        Disk::new("swap", 6),
        Disk::new("part-of-group", 7),
    ];
    let [mounted, swap, other] = [0, 1, 2].map(|n: usize| disks[n].bdf());
    let script = format!(
        "drivers >/run/drivers\nmkdir -p /mnt\n\
         disk=$(disk_of {mounted})\nmke2fs $disk >/dev/null\nmount -t ext4 $disk /mnt\n\
         echo precious >/mnt/file\n\
         host bind {mounted}\nhost bind {other} {mounted}\nstate mounted\n\
         say file $(cat /mnt/file)\n\
         run_vmm --kernel bzImage --initrd initrd --vfio {mounted},managed=on\nstate managed\n\
         umount /mnt\nhost bind {mounted}\nsay free $(driver_of {mounted})\nhost unbind {mounted}\n\
         disk=$(disk_of {mounted})\nmount -t ext4 $disk /mnt\nsay file-after $(cat /mnt/file)\numount /mnt\n\
         disk=$(disk_of {swap})\nmkswap $disk >/dev/null\nswapon $disk\n\
         host bind {swap}\nstate swap\nswapoff $disk\n\
         ip addr add 10.0.2.15/24 dev eth0\nhost bind {CARD}\nstate no-route\n\
         ip link set eth0 up\nhost bind {CARD}\nstate card\n\
         host bind {DISPLAY}\nstate display\n\
         host bind {CARD} --force\nsay forced $(driver_of {CARD})\nhost unbind {CARD}\nstate end\n"
    );
    scenario(
        "what_the_host_uses_is_not_taken",
        with_display(with_card(&disks)),
        script,
        Box::new(|outcome| {
            let refused = ["1", "1", "0", "0", "1", "1", "1", "1", "0", "0"];
            exits(outcome, &refused)?;
            for what in [
                "mounted", "managed", "swap", "no-route", "card", "display", "end",
            ] {
                saw(outcome, &format!("state {what} same records=0"))?;
            }
            for fact in [
                "file precious",
                "free vfio-pci",
                "file-after precious",
                "forced vfio-pci",
            ] {
                saw(outcome, fact)?;
            }
            said(outcome, "host-err", &["in use", "mounted at /mnt"])?;
            said(outcome, "host-err", &["hint: ", "umount '/mnt'", "--force"])?;
            said(outcome, "host-err", &["in use", "swap"])?;
            said(
                outcome,
                "host-err",
                &["in use", "eth0 has the address 10.0.2.15"],
            )?;
            said(
                outcome,
                "host-err",
                &["in use", "display that the firmware"],
            )?;
            let managed = run(outcome, 0)?;
            expect(
                managed.exit() == Some(1)
                    && managed.messages().any(|m| m.contains("mounted at /mnt")),
                || "a run took a mounted disk".into(),
            )
        }),
    )
}

/// The second device of two cannot be bound, in two ways: its attribute does not take a write, and the
/// write has no effect, so that its own driver has it again.
fn half_way() -> Scenario {
    let mut second = Disk::new("second-function", 6);
    second.function = 1;
    let disks = [Disk::new("first-function", 6), second];
    let [first, second] = [0, 1].map(|n: usize| disks[n].bdf());
    let script = format!(
        "drivers >/run/drivers\n\
         echo '(null)' >/run/nothing\ncover=$(readlink -f $sys/{second})/driver_override\n\
         mount --bind /run/nothing $cover\nmount -o remount,bind,ro $cover\n\
         host bind {first} --group\numount $cover\nstate refused\n\
         mount --bind /run/nothing $cover\n\
         host bind {first} --group\numount $cover\nstate ignored\n\
         say_back {first}\nsay_back {second}\n\
         host bind {first} --group\nhost unbind {first}\nstate end\n"
    );
    scenario(
        "a_group_is_bound_whole_or_not_at_all",
        Machine::with_disks(&disks),
        script,
        Box::new(move |outcome| {
            exits(outcome, &["1", "1", "0", "0"])?;
            for what in ["refused", "ignored", "end"] {
                saw(outcome, &format!("state {what} same records=0"))?;
            }
            said(
                outcome,
                "host-err",
                &["cannot write `vfio-pci`", "0000:00:06.1", "undone"],
            )?;
            said(
                outcome,
                "host-err",
                &[
                    "vfio-pci did not take PCI device 0000:00:06.1",
                    "has the driver nvme",
                    "undone",
                ],
            )?;
            for disk in &disks {
                back(outcome, disk)?;
            }
            Ok(())
        }),
    )
}

/// Killed where it waits: for a reader of what is to be written, between the host's driver and VFIO's.
/// The next command mends, whatever it is asked for; of a run, its guardian does.
fn killed() -> Scenario {
    let mut second = Disk::new("second-function", 6);
    second.function = 1;
    let disks = [Disk::new("first-function", 6), second];
    let [first, second] = [0, 1].map(|n: usize| disks[n].bdf());
    let script = format!(
        "drivers >/run/drivers\nmkfifo /run/wait\nprobe=/sys/bus/pci/drivers_probe\n\
         stopped() {{ for _ in $(seq 100); do [ $(driver_of {first}) = none ] && break; sleep 0.1; done\n\
         say stopped $(driver_of {first}) $(cat $sys/{first}/driver_override); }}\n\
         mount --bind /run/wait $probe\n\
         mini-vmm host bind {first} --group & pid=$!\nstopped\n\
         kill -KILL $pid\nwait $pid || say killed $?\n\
         host unbind {second}\nstate mended\nsay_back {first}\nsay_back {second}\n\
         start_as '' mini-vmm --kernel bzImage --initrd initrd --vfio {first},managed=on --vfio {second},managed=on\n\
         stopped\nkill -KILL $vmm_pid\nwait_vmm\nawait_driver {first} nvme\nsay_back {first}\n\
         umount $probe\nstate run\n\
         host bind {first} --group\nhost unbind {first}\nstate end\n"
    );
    scenario(
        "a_bind_that_is_killed_is_mended",
        Machine::with_disks(&disks),
        script,
        Box::new(move |outcome| {
            let stopped: Vec<_> = outcome.transcript.lab("stopped").collect();
            expect(stopped == ["none vfio-pci"; 2], || {
                format!("the killed ones were at {stopped:?}")
            })?;
            saw(outcome, "killed 137")?;
            // The device that was asked for had never been taken.
            exits(outcome, &["1", "0", "0"])?;
            said(
                outcome,
                "host-err",
                &["killed while it had PCI device 0000:00:06.0"],
            )?;
            for what in ["mended", "run", "end"] {
                saw(outcome, &format!("state {what} same records=0"))?;
            }
            for disk in &disks {
                back(outcome, disk)?;
            }
            Ok(())
        }),
    )
}

/// By group and container, and by iommufd: all that such a user needs besides is what is said.
fn ordinary_user() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let vmm = format!(
        "run_as user mini-vmm --kernel bzImage --initrd initrd --memory 256M \
         --cmdline 'quiet panic=-1' --vfio {bdf}"
    );
    let script = format!(
        "drivers >/run/drivers\nulimit -l unlimited\n\
         owners() {{ say owners $(stat -c %u /dev/vfio/$(group_of {bdf}) /dev/vfio/devices/*); }}\n\
         host bind {bdf}\nowners\n{vmm}\n\
         host bind {bdf} --user user\nowners\n\
         chmod 666 /dev/kvm\n{vmm}\n\
         chmod 666 /dev/iommu\n{vmm} --iommu iommufd\n\
         host unbind {bdf}\nsay_back {bdf}\nstate end\n\
         host bind {bdf}\nowners\nhost unbind {bdf}\n"
    );
    scenario(
        "an_ordinary_user_boots_a_guest",
        Machine::with_disks(std::slice::from_ref(&disk)),
        script,
        Box::new(move |outcome| {
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
                worked(outcome, &run, &disk)?;
            }
            saw(outcome, "state end same records=0")?;
            back_with_guest_text(outcome, &disk)
        }),
    )
}

/// An NVMe controller makes two virtual functions, which go with it.
fn virtual_functions() -> Scenario {
    const PF: &str = "0000:01:00.0";
    let machine = Machine::with_device(&[
        "-device",
        "pcie-root-port,id=slot1,chassis=1,slot=1,addr=3",
        "-device",
        "nvme-subsys,id=subsystem",
        "-device",
        "nvme,serial=physical,subsys=subsystem,bus=slot1,sriov_max_vfs=2,sriov_vq_flexible=4,\
         sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=7",
    ]);
    let script = format!(
        "drivers >/run/drivers\n\
         functions() {{ for f in $sys/{PF}/virtfn*; do driver_of $(basename $(readlink $f)); done; }}\n\
         host bind {PF} --vfs 2\nsay functions $(functions)\nsay physical $(driver_of {PF})\n\
         host bind {PF} --vfs 1\n\
         vf=$(basename $(readlink $sys/{PF}/virtfn1))\n\
         sleep 60 </dev/vfio/$(group_of $vf) & holder=$!\nsleep 0.2\n\
         host unbind {PF}\nsay held $(functions)\nkill $holder\nwait $holder || :\n\
         host unbind {PF}\nstate end\n\
         mini-vmm host bind {PF} --vfs 2 --user user --dry-run >/run/by-hand\nsh -e /run/by-hand\n\
         say by-hand $(functions) $(stat -c %u /dev/vfio/$(group_of $vf) /dev/vfio/devices/*)\n\
         echo 0 >$sys/{PF}/sriov_numvfs\nstate by-hand\n\
         host bind {PF} --vfs 3\n\
         say probe $(cat $sys/{PF}/sriov_drivers_autoprobe)\nstate refused\n"
    );
    scenario(
        "virtual_functions_come_and_go",
        machine,
        script,
        Box::new(|outcome| {
            exits(outcome, &["0", "1", "1", "0", "1"])?;
            saw(outcome, "functions vfio-pci vfio-pci")?;
            saw(outcome, "held vfio-pci vfio-pci")?;
            said(
                outcome,
                "host-err",
                &["would go with it", "sleep (process "],
            )?;
            saw(outcome, "by-hand vfio-pci vfio-pci 1000 1000 1000")?;
            saw(outcome, "state by-hand same records=0")?;
            saw(outcome, "physical nvme")?;
            saw(outcome, "probe 1")?;
            saw(outcome, "state end same records=0")?;
            saw(outcome, "state refused same records=0")?;
            said(outcome, "host-err", &["has 2 virtual functions already"])?;
            said(outcome, "host-err", &["2 virtual functions at most, not 3"])
        }),
    )
}
