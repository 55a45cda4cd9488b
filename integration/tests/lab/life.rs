//! How a guest's life ends and begins again: reboots, triple fault, and signals to mini-vmm.
//! Each time the disk must work afterwards, in the guest or back on the host.

use std::time::Duration;

use lab::disk::Disk;
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};

use lab::expect::{back, back_with_guest_text, ended_well, exit, expect, read, run, worked};
use lab::transcript::{number, value};

const LIMIT: Duration = Duration::from_secs(180);

/// How often the guest boots in one run.
const BOOTS: u64 = 10;

/// What an allocator may keep; eight boots that lose a page each would be over it.
const MOST_GROWTH_KIB: u64 = 28;

pub fn all() -> Vec<Scenario> {
    vec![
        reboot(),
        many_reboots(),
        no_reboot(),
        terminated(),
        killed(),
    ]
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
         run_vmm --kernel bzImage --initrd initrd --memory 512M \
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
fn many_reboots() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let script = format!(
        "bind_vfio {bdf}\n\
         start_vmm --kernel bzImage --initrd initrd --memory 256M \
         --cmdline 'quiet panic=-1 lab.act=reboot-{BOOTS}' --vfio {bdf}\n\
         await 'boot=2' 60\nheld early\n\
         await 'boot={BOOTS}' 150\nheld late\n\
         wait_vmm\ngive_back {bdf}\n"
    );
    Scenario {
        kernel: Choice::Lab,
        ..scenario(
            "nothing_is_lost_over_many_reboots",
            &disk.clone(),
            script,
            Box::new(move |outcome| {
                let run = run(outcome, 0)?;
                ended_well(&run)?;
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
                })?;
                let held = |when: &str, what: &str| {
                    let fact = run.lab("held").find(|fact| fact.starts_with(when));
                    fact.and_then(|fact| number(fact, what)).unwrap_or(0)
                };
                for what in ["fds", "maps", "threads"] {
                    let [early, late] = ["early", "late"].map(|when| held(when, what));
                    expect(early > 0 && early == late, || {
                        format!(
                            "mini-vmm holds {late} {what} in boot {BOOTS}, and held {early} in boot 2"
                        )
                    })?;
                }
                // The guest's RAM is all there from the start, so what is more is mini-vmm's own.
                let [early, late] = ["early", "late"].map(|when| held(when, "rss"));
                expect(early > 0 && late <= early + MOST_GROWTH_KIB, || {
                    format!("mini-vmm's memory grew from {early} KiB to {late} KiB")
                })?;
                back(outcome, &disk)
            }),
        )
    }
}

fn no_reboot() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let script = format!(
        "bind_vfio {bdf}\n\
         run_vmm --kernel bzImage --initrd initrd --memory 512M --no-reboot \
         --cmdline 'quiet panic=-1 lab.act=reboot' --vfio {bdf}\n\
         run_vmm --kernel bzImage --initrd initrd --memory 512M --no-reboot \
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
            "start_vmm --kernel bzImage --initrd initrd --memory 512M \
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

/// SIGKILL in the middle of DMA leaves nothing behind: another run has the device at once, the other
/// interface to the IOMMU too, and after all of them the host's driver has it.
fn killed() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let mut script = format!("bind_vfio {bdf}\n");
    for iommu in ["container", "iommufd"] {
        let vmm = format!(
            "mini-vmm --kernel bzImage --initrd initrd --memory 512M --iommu {iommu} --vfio {bdf}"
        );
        script.push_str(&format!(
            "start_as '' {vmm} --cmdline 'quiet panic=-1 lab.act=loop'\n\
             await 'L2: looping' 90\nsleep 0.5\nkill -KILL $vmm_pid\nwait_vmm\n\
             run_as '' {vmm} --cmdline 'quiet panic=-1'\n"
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
                    let next = run(outcome, index + 1)?;
                    ended_well(&next)?;
                    worked(outcome, &next, &disk)?;
                }
                back_with_guest_text(outcome, &disk)
            }),
        )
    }
}
