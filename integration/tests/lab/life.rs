//! How a guest's life ends and begins again: reboots, triple fault, and signals to mini-vmm.
//! Each time the disk must work afterwards, in the guest or back on the host.

use std::time::Duration;

use lab::disk::Disk;
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::{Run, number, value};
use lab::{Error, Result};

use lab::expect::{back, back_with_guest_text, ended_well, exit, expect, read, run, worked};

use crate::both::INTERFACES;

const LIMIT: Duration = Duration::from_secs(180);

/// How often the guest boots in one run: the first time, and after each of 50 reboots.
const BOOTS: u64 = 51;

/// What an allocator may keep; as many boots that lose a page each would be far over it.
const MOST_GROWTH_KIB: u64 = 28;

pub fn all() -> Vec<Scenario> {
    vec![reboot(), no_reboot(), terminated(), killed(), ended_early()]
}

/// Those that take over a minute.
pub fn slow() -> Vec<Scenario> {
    INTERFACES.map(many_reboots).into()
}

fn scenario(
    name: &'static str,
    disk: &Disk,
    script: String,
    check: lab::scenario::Check,
) -> Scenario {
    Scenario {
        name,
        machine: Machine::with_disks(std::slice::from_ref(disk)),
        kernel: Choice::Stock,
        image: Image::BzImage,
        script,
        limit: LIMIT,
        check,
    }
}

fn reboot() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let script = format!(
        "bind_vfio {bdf}\n\
         run_vmm -v --kernel bzImage --initrd initrd --memory 512M \
         --cmdline 'quiet panic=-1 lab.act=reboot-once' --vfio {bdf}\n\
         give_back {bdf}\n"
    );
    scenario(
        "the_disk_works_after_a_reboot",
        &disk.clone(),
        script,
        Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            exit(&run, 0)?;
            let boots = run.guest("init").count();
            expect(boots == 2, || {
                format!("the guest booted {boots} times, not twice")
            })?;
            let texts = run.guest("text").count();
            expect(texts == 2, || {
                format!("the guest read the disk in {texts} of its 2 boots")
            })?;
            // What the first boot wrote is how the second knows itself.
            expect(run.guest("boots").last() == Some("lab-disk boot 1"), || {
                "the second boot did not find what the first one wrote".into()
            })?;
            expect(run.guest("done").eq(["reboot", "poweroff"]), || {
                "the guest did not reboot and then power off".into()
            })?;
            worked(outcome, &run, &disk)?;
            back_with_guest_text(outcome, &disk)
        }),
    )
}

/// Many boots in one process: each works, and the last leaves the VMM with as much as the second.
fn many_reboots(iommu: &'static str) -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let script = format!(
        "bind_vfio {bdf}\n\
         start_vmm -v --kernel vmlinux --initrd initrd --memory 128M --iommu {iommu} \
         --cmdline 'quiet panic=-1 lab.act=reboot-{BOOTS}' --vfio {bdf}\n\
         await 'boot=2' 60\nheld early\n\
         await 'boot={BOOTS}' 600\nheld late\n\
         wait_vmm\ngive_back {bdf}\n"
    );
    let name = match iommu {
        "container" => "fifty_reboots_in_a_container",
        _ => "fifty_reboots_by_iommufd",
    };
    Scenario {
        kernel: Choice::Lab,
        // Unpacking takes longer than booting.
        image: Image::Vmlinux,
        limit: Duration::from_secs(700),
        ..scenario(
            name,
            &disk.clone(),
            script,
            Box::new(move |outcome| {
                let run = run(outcome, 0)?;
                ended_well(&run)?;
                each_boot_worked(&run, &disk)?;
                nothing_grew(&run)?;
                back(outcome, &disk)
            }),
        )
    }
}

fn each_boot_worked(run: &Run<'_>, disk: &Disk) -> Result<()> {
    let counted: Vec<_> = run.guest("counted").collect();
    for (n, fact) in (1..=BOOTS).zip(&counted) {
        expect(
            value(fact, "serial") == Some(disk.serial)
                && number(fact, "boot") == Some(n)
                && number(fact, "interrupts").is_some_and(|n| n > 0),
            || format!("boot {n} found the disk otherwise than it should: {fact}"),
        )?;
    }
    expect(counted.len() as u64 == BOOTS, || {
        format!("{} of {BOOTS} boots worked", counted.len())
    })
}

fn nothing_grew(run: &Run<'_>) -> Result<()> {
    let held = |when: &str, what: &str| {
        let fact = run.lab("held").find(|fact| fact.starts_with(when));
        fact.and_then(|fact| number(fact, what)).unwrap_or(0)
    };
    for what in ["fds", "maps", "threads"] {
        let [early, late] = ["early", "late"].map(|when| held(when, what));
        expect(early > 0 && early == late, || {
            format!("mini-vmm holds {late} {what} in boot {BOOTS}, and held {early} in boot 2")
        })?;
    }
    // The guest's RAM is all there from the start, so what is more is mini-vmm's own.
    let [early, late] = ["early", "late"].map(|when| held(when, "rss"));
    expect(early > 0 && late <= early + MOST_GROWTH_KIB, || {
        format!("mini-vmm's memory grew from {early} KiB to {late} KiB")
    })?;
    let slots: Vec<_> = run
        .messages()
        .filter_map(|line| number(line, "slots"))
        .collect();
    expect(slots.len() as u64 == BOOTS - 1, || {
        format!("mini-vmm told its memory slots at {} reboots", slots.len())
    })?;
    let first = slots.first().copied().unwrap_or(0);
    expect(first > 1 && slots.iter().all(|n| *n == first), || {
        format!("the memory slots in use differ from reboot to reboot: {slots:?}")
    })
}

fn no_reboot() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let script = format!(
        "bind_vfio {bdf}\n\
         run_vmm -v --kernel bzImage --initrd initrd --memory 512M --no-reboot \
         --cmdline 'quiet panic=-1 lab.act=reboot' --vfio {bdf}\n\
         run_vmm -v --kernel bzImage --initrd initrd --memory 512M --no-reboot \
         --cmdline 'quiet panic=-1 reboot=t lab.act=reboot' --vfio {bdf}\n\
         give_back {bdf}\n"
    );
    scenario(
        "no_reboot_tells_a_reboot_from_a_triple_fault",
        &disk.clone(),
        script,
        Box::new(move |outcome| {
            for (index, status) in [(0, 0), (1, 3)] {
                let run = run(outcome, index)?;
                exit(&run, status)?;
                let boots = run.guest("init").count();
                expect(boots == 1, || {
                    format!("the guest booted {boots} times, not once")
                })?;
                worked(outcome, &run, &disk)?;
            }
            back_with_guest_text(outcome, &disk)
        }),
    )
}

fn terminated() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    // The guest is in the middle of DMA when the signal comes.
    let one = |signal: &str| {
        format!(
            "start_vmm -v --kernel bzImage --initrd initrd --memory 512M \
             --cmdline 'quiet panic=-1 lab.act=loop' --vfio {bdf}\n\
             await 'L2: looping' 90\nsleep 0.5\nkill -{signal} $vmm_pid\n\
             wait_vmm\n"
        )
    };
    let script = format!(
        "bind_vfio {bdf}\n{}give_back {bdf}\nbind_vfio {bdf}\n{}give_back {bdf}\n",
        one("TERM"),
        one("INT")
    );
    scenario(
        "a_signal_ends_the_run_in_order",
        &disk.clone(),
        script,
        Box::new(move |outcome| {
            for index in [0, 1] {
                let run = run(outcome, index)?;
                // A process that a signal kills shows as 128 and more in the shell; an orderly
                // end is a plain status of its own.
                exit(&run, 0)?;
                read(&run, &disk)?;
            }
            back(outcome, &disk)
        }),
    )
}

/// SIGKILL in the middle of reads and writes leaves nothing behind: the host's driver takes the
/// device back and works with it, and the next run has it as if nothing had been.
fn killed() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let mut script = String::new();
    for iommu in INTERFACES {
        let vmm = format!(
            "mini-vmm --kernel bzImage --initrd initrd --memory 512M --iommu {iommu} --vfio {bdf}"
        );
        script.push_str(&format!(
            "bind_vfio {bdf}\n\
             start_as '' {vmm} --cmdline 'quiet panic=-1 lab.act=loop'\n\
             await 'L2: looping' 90\nsleep 0.5\ntaken while-alive\nkill -KILL $vmm_pid\nwait_vmm\n\
             taken after-kill\ngive_back {bdf}\ncopy_again {bdf}\n\
             bind_vfio {bdf}\nrun_as '' {vmm} --cmdline 'quiet panic=-1'\n\
             taken after-end\n"
        ));
    }
    script.push_str(&format!("give_back {bdf}\n"));
    Scenario {
        kernel: Choice::Lab,
        ..scenario(
            "a_killed_vmm_leaves_nothing_behind",
            &disk.clone(),
            script,
            Box::new(move |outcome| {
                for index in [0, 2] {
                    let killed = run(outcome, index)?;
                    // 128 and SIGKILL's number
                    exit(&killed, 137)?;
                    read(&killed, &disk)?;
                    nothing_is_left(&killed)?;
                    let copied = killed.lab("copied").next();
                    expect(copied == Some("same"), || {
                        format!("L1's driver does not work with the disk again: {copied:?}")
                    })?;
                    let next = run(outcome, index + 1)?;
                    ended_well(&next)?;
                    worked(outcome, &next, &disk)?;
                    let left = taken(&next, "after-end")?;
                    expect(left == [0, 0], || {
                        format!("pages and files are left behind at the end: {left:?}")
                    })?;
                }
                back_with_guest_text(outcome, &disk)
            }),
        )
    }
}

/// An end at any moment of the start, at which RAM is made present, being mapped, or mapped beside the guest:
/// nothing stays pinned or open.
fn ended_early() -> Scenario {
    const DELAYS: [&str; 6] = ["0.1", "0.2", "0.3", "0.5", "0.8", "1.2"];
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let mut script = format!("bind_vfio {bdf}\n");
    for signal in ["TERM", "KILL"] {
        for (delay, iommu) in DELAYS.iter().zip(INTERFACES.iter().cycle()) {
            script.push_str(&format!(
                "start_vmm --kernel bzImage --initrd initrd --memory 1G --iommu {iommu} --vfio {bdf} \
                 --cmdline 'quiet panic=-1 lab.act=loop'\n\
                 sleep {delay}\nkill -{signal} $vmm_pid\nwait_vmm\ntaken after-{signal}\n"
            ));
        }
    }
    script.push_str(&format!("give_back {bdf}\n"));
    Scenario {
        kernel: Choice::Lab,
        ..scenario(
            "an_end_during_the_start_leaves_nothing_behind",
            &disk.clone(),
            script,
            Box::new(move |outcome| {
                for index in 0..2 * DELAYS.len() {
                    let run = run(outcome, index)?;
                    let (when, ends) = match index < DELAYS.len() {
                        // By itself, or before it catches the signal: 128 and the signal's number.
                        true => ("after-TERM", [0, 143]),
                        false => ("after-KILL", [137; 2]),
                    };
                    let status = run.exit();
                    expect(status.is_some_and(|s| ends.contains(&s)), || {
                        format!("{when}, mini-vmm ended with {status:?}")
                    })?;
                    let left = taken(&run, when)?;
                    expect(left == [0, 0], || {
                        format!("pages and files are left behind {when}: {left:?}")
                    })?;
                }
                back(outcome, &disk)
            }),
        )
    }
}

/// Pages that devices may reach, open files of KVM, VFIO and iommufd.
fn taken(run: &Run<'_>, when: &str) -> Result<[u64; 2]> {
    let fact = run
        .lab("taken")
        .find(|fact| fact.starts_with(when))
        .unwrap_or_default();
    let found = ["pinned", "open"].map(|name| number(fact, name));
    let [Some(pinned), Some(open)] = found else {
        return Err(Error::failed(format!("L1 did not look, {when}: {fact}")));
    };
    Ok([pinned, open])
}

fn nothing_is_left(run: &Run<'_>) -> Result<()> {
    // It is a measure only if it sees what there is while the guest lives: 512 MiB, for one.
    let before = taken(run, "while-alive")?;
    expect(before[0] >= 512 << 8 && before[1] > 3, || {
        format!("L1 sees too little of a running VMM's pages and files: {before:?}")
    })?;
    let left = taken(run, "after-kill")?;
    expect(left == [0, 0], || {
        format!("pages and files are left behind by a killed VMM: {left:?}")
    })
}
