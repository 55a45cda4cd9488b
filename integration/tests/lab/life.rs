//! The end and the restart of a guest: reboots, triple faults, and signals to mini-vmm. Each time
//! the disk must work afterwards, in the guest or in L1.

use lab::command::{INTERFACES, Vmm};
use lab::disk::Disk;
use lab::expect::{ended_well, expect, read, run, worked};
use lab::kernel::{Choice, KernelFile};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number, value};
use lab::{Error, Result};

const DISK: Disk = Disk::new("lab-disk", 5);

/// Boots of a guest in one run: the first one, and one after each of 50 reboots.
const BOOTS: u64 = 51;

/// The memory that mini-vmm's allocator and stacks may take after boot 2: 16 to 24 KiB were seen. A
/// kibibyte lost in each boot is more.
const MOST_GROWTH_KIB: u64 = 40;

/// Waits until the guest reads and writes its disk, so that a signal arrives during DMA.
const UNTIL_BUSY: &str = "await 'L2: looping' 90\nsleep 0.5";

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("the_disk_works_after_a_reboot")
            .kernel(Choice::Stock)
            .limit(180)
            .disk(DISK)
            .vmm(
                Vmm::new("-v --memory 512M")
                    .cmdline("lab.act=reboot-once")
                    .boots(2),
            )
            .each_run(|_, run| rebooted_once(run)),
        no_reboot(),
        terminated(),
        killed(),
        ended_early(),
        many_reboots("fifty_reboots_in_a_container", "container", ""),
        many_reboots("fifty_reboots_by_iommufd", "iommufd", ""),
        many_reboots("fifty_reboots_behind_a_root_port", "container", ",port=on"),
    ]
}

fn rebooted_once(run: &Run<'_>) -> Result<()> {
    let texts = run.guest("text").count();
    expect(texts == 2, || {
        format!("the guest read the disk in {texts} of its 2 boots")
    })?;
    // The first boot writes this text, and the second boot reads it.
    expect(run.guest("boots").last() == Some("lab-disk boot 1"), || {
        "the second boot did not find what the first one wrote".into()
    })?;
    expect(run.guest("done").eq(["reboot", "poweroff"]), || {
        "the guest did not reboot and then power off".into()
    })
}

/// Many boots in one process: each boot works, and mini-vmm uses as much memory in the last boot as
/// in the second.
fn many_reboots(name: &'static str, interface: &'static str, options: &'static str) -> Scenario {
    let reboots = Vmm::new("--memory 128M")
        .by(interface)
        .cmdline(format!("lab.act=reboot-{BOOTS}"))
        .meanwhile(format!(
            "await 'boot=2' 60\nheld early\nawait 'boot={BOOTS}' 600\nheld late"
        ))
        .exits(0);
    Scenario::new(name)
        .slow()
        .limit(700)
        // Unpacking a bzImage takes longer than booting.
        .kernel_file(KernelFile::Vmlinux)
        .disk_with(DISK, options)
        .vmm(reboots)
        .guests_leave_no_text()
        .each_run(|_, run| {
            ended_well(run)?;
            each_boot_worked(run)?;
            nothing_grew(run)
        })
}

fn each_boot_worked(run: &Run<'_>) -> Result<()> {
    let counted: Vec<_> = run.guest("counted").collect();
    for (n, fact) in (1..=BOOTS).zip(&counted) {
        expect(
            value(fact, "serial") == Some(DISK.serial)
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
    let [early, late] = ["early", "late"].map(|when| held(when, "own"));
    expect(early > 0 && late <= early + MOST_GROWTH_KIB, || {
        format!("mini-vmm's own memory grew from {early} KiB to {late} KiB")
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

/// With --no-reboot, the exit status is 0 after a reboot and 3 after a triple fault.
fn no_reboot() -> Scenario {
    let vmm = |words: &str| Vmm::new("-v --memory 512M --no-reboot").cmdline(words);
    Scenario::new("no_reboot_tells_a_reboot_from_a_triple_fault")
        .kernel(Choice::Stock)
        .limit(180)
        .disk(DISK)
        .vmm(vmm("lab.act=reboot").exits(0))
        .vmm(vmm("reboot=t lab.act=reboot").exits(3))
        .check(|outcome| {
            for index in [0, 1] {
                let run = run(outcome, index)?;
                let boots = run.guest("init").count();
                expect(boots == 1, || {
                    format!("the guest booted {boots} times, not once")
                })?;
                worked(outcome, &run, &DISK)?;
            }
            Ok(())
        })
}

/// After SIGTERM and SIGINT, mini-vmm ends in order. If a signal killed the process, the shell
/// would show 128 and the signal's number.
fn terminated() -> Scenario {
    let bdf = DISK.bdf();
    let vmm = |signal: &str| {
        Vmm::new("-v --memory 512M")
            .cmdline("lab.act=loop")
            .meanwhile(format!("{UNTIL_BUSY}\nkill -{signal} $vmm_pid"))
            .exits(0)
    };
    Scenario::new("a_signal_ends_the_run_in_order")
        .kernel(Choice::Stock)
        .limit(180)
        .disk(DISK)
        .vmm(vmm("TERM"))
        .l1(format!("give_back {bdf}\nbind_vfio {bdf}"))
        .vmm(vmm("INT"))
        .each_run(|_, run| read(run, &DISK))
}

/// SIGKILL during reads and writes leaves nothing behind: L1's driver works with the device again,
/// and so does the next run. Tested with each interface.
fn killed() -> Scenario {
    let bdf = DISK.bdf();
    let scenario = Scenario::new("a_killed_vmm_leaves_nothing_behind")
        .limit(180)
        .disk(DISK);
    INTERFACES
        .into_iter()
        .fold(scenario, |scenario, interface| {
            let options = format!("--memory 512M --iommu {interface}");
            let killed = Vmm::new(&options)
                .cmdline("lab.act=loop")
                .meanwhile(format!(
                    "{UNTIL_BUSY}\nin_use while-alive\nkill -KILL $vmm_pid"
                ))
                // 128 and the number of SIGKILL
                .exits(137);
            scenario
                .vmm(killed)
                .l1(format!(
                    "in_use after-kill\ngive_back {bdf}\ncopy_again {bdf}\nbind_vfio {bdf}"
                ))
                .vmm(options)
                .l1("in_use after-end")
        })
        .each_run(|index, run| match index % 2 {
            0 => was_killed(run),
            _ => nothing_in_use(run, "after-end"),
        })
}

fn was_killed(run: &Run<'_>) -> Result<()> {
    read(run, &DISK)?;
    // The count is valid only if it contains the pages of a running guest, 512 MiB at least.
    let before = in_use(run, "while-alive")?;
    expect(before[0] >= 512 << 8 && before[1] > 3, || {
        format!("L1 sees too little of a running VMM's pages and files: {before:?}")
    })?;
    nothing_in_use(run, "after-kill")?;
    let copied = run.lab("copied").next();
    expect(copied == Some("same"), || {
        format!("L1's driver does not work with the disk again: {copied:?}")
    })
}

/// Seconds from the start to a signal. The RAM is then being made present, is being mapped for DMA,
/// or is mapped while the guest runs.
const DELAYS: [&str; 6] = ["0.1", "0.2", "0.3", "0.5", "0.8", "1.2"];

/// Waits until no process makes a call for a run. A call that SIGKILL has left alone goes on to its
/// end, and its file is closed then.
const UNTIL_QUIET: &str = "for _ in $(seq 30); do \
     grep -q vmm-guardian /proc/[0-9]*/comm 2>/dev/null || break; sleep 0.1; done";

/// A signal at any moment of the start leaves no page pinned and no file open.
fn ended_early() -> Scenario {
    let bdf = DISK.bdf();
    let mut script = String::new();
    for signal in ["TERM", "KILL"] {
        for (delay, iommu) in DELAYS.iter().zip(INTERFACES.iter().cycle()) {
            script.push_str(&format!(
                "start_vmm $boot --memory 1G --iommu {iommu} --vfio {bdf} \
                 --cmdline \"$cmdline lab.act=loop\"\n\
                 sleep {delay}\nkill -{signal} $vmm_pid\nwait_vmm\n{UNTIL_QUIET}\n\
                 in_use after-{signal}\n"
            ));
        }
    }
    Scenario::new("an_end_during_the_start_leaves_nothing_behind")
        .limit(180)
        .disk(DISK)
        .l1(script)
        .guests_leave_no_text()
        .check(each_end_is_clean)
}

fn each_end_is_clean(outcome: &Outcome) -> Result<()> {
    for index in 0..2 * DELAYS.len() {
        let run = run(outcome, index)?;
        let (when, ends) = match index < DELAYS.len() {
            // mini-vmm ends by itself, or the signal comes before mini-vmm catches it: 128 and the
            // signal's number.
            true => ("after-TERM", [0, 143]),
            false => ("after-KILL", [137; 2]),
        };
        let status = run.exit();
        expect(status.is_some_and(|s| ends.contains(&s)), || {
            format!("{when}, mini-vmm ended with {status:?}")
        })?;
        nothing_in_use(&run, when)?;
    }
    Ok(())
}

/// Pages that are pinned for devices, and open files of KVM, VFIO and iommufd.
fn in_use(run: &Run<'_>, when: &str) -> Result<[u64; 2]> {
    let fact = run
        .lab("in-use")
        .find(|fact| fact.starts_with(when))
        .unwrap_or_default();
    let found = ["pinned", "open"].map(|name| number(fact, name));
    let [Some(pinned), Some(open)] = found else {
        return Err(Error::failed(format!(
            "L1 counted no pages and files {when}: {fact}"
        )));
    };
    Ok([pinned, open])
}

fn nothing_in_use(run: &Run<'_>, when: &str) -> Result<()> {
    let left = in_use(run, when)?;
    expect(left == [0, 0], || {
        format!("pages and files are left behind {when}: {left:?}")
    })
}
