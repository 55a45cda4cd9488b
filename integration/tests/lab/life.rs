//! How a guest's life ends and begins again: reboot, triple fault, and a signal to mini-vmm.
//! Each time the disk must work afterwards, in the guest or back on the host.

use std::time::Duration;

use lab::disk::Disk;
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};

use lab::expect::{back, back_with_guest_text, exit, expect, read, run, worked};

const LIMIT: Duration = Duration::from_secs(180);

pub fn all() -> Vec<Scenario> {
    vec![reboot(), no_reboot(), terminated()]
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
