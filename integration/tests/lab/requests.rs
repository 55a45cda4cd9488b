//! What the host asks of a running guest's device.

use std::time::Duration;

use lab::disk::Disk;
use lab::expect::{back, exit, expect, run};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::{Run, number};
use lab::{Error, Result};

use crate::both::INTERFACES;

/// An unbind that waits for the guest's own timeouts takes tens of seconds.
const PATIENCE_MS: u64 = 2000;

pub fn all() -> Vec<Scenario> {
    vec![taken_back(), removed()]
}

/// L1 unbinds the device while the guest reads and writes: the unbind returns, the guest sees the
/// disk go, and lives on until it powers off. By each interface.
fn taken_back() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let script = INTERFACES.map(|iommu| {
        format!(
            "bind_vfio {bdf}\n\
             start_vmm --kernel bzImage --initrd initrd --memory 512M --iommu {iommu} \
             --cmdline 'quiet panic=-1 nvme_core.io_timeout=2 nvme_core.admin_timeout=2 lab.act=loop' \
             --vfio {bdf}\n\
             await 'L2: looping' 90\nsleep 0.5\n\
             before=$(milliseconds)\n\
             echo {bdf} >$sys/{bdf}/driver/unbind\n\
             say \"unbind ms=$(($(milliseconds) - before)) driver=$(driver_of {bdf})\"\n\
             wait_vmm\n\
             give_back {bdf}\n"
        )
    });
    Scenario {
        name: "the_host_takes_the_device_back",
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: script.concat(),
        limit: Duration::from_secs(180),
        check: Box::new(move |outcome| {
            for (index, iommu) in INTERFACES.into_iter().enumerate() {
                let run = run(outcome, index)?;
                lived_on(&run).map_err(|error| Error::failed(format!("by {iommu}: {error}")))?;
            }
            back(outcome, &disk)
        }),
    }
}

/// L1 removes the device from its bus while the guest reads and writes: the VMM closes a device that
/// leaves sysfs, says nothing of a step that failed, and the guest lives on. By each interface.
fn removed() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let script = INTERFACES.map(|iommu| {
        format!(
            "bind_vfio {bdf}\n\
             start_vmm --kernel bzImage --initrd initrd --memory 512M --iommu {iommu} \
             --cmdline 'quiet panic=-1 nvme_core.io_timeout=2 nvme_core.admin_timeout=2 \
             lab.act=loop' \
             --vfio {bdf}\n\
             await 'L2: looping' 90\nsleep 0.5\n\
             before=$(milliseconds)\n\
             echo 1 >$sys/{bdf}/remove\n\
             say \"unbind ms=$(($(milliseconds) - before)) left=$(ls $sys | grep -c {bdf})\"\n\
             wait_vmm\n\
             echo 1 >/sys/bus/pci/rescan\n\
             say_back {bdf}\n"
        )
    });
    Scenario {
        name: "a_device_leaves_the_bus_of_a_running_guest",
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: script.concat(),
        limit: Duration::from_secs(180),
        check: Box::new(move |outcome| {
            for (index, iommu) in INTERFACES.into_iter().enumerate() {
                let run = run(outcome, index)?;
                lived_on(&run).map_err(|error| Error::failed(format!("by {iommu}: {error}")))?;
                let left = run
                    .lab("unbind")
                    .next()
                    .and_then(|fact| number(fact, "left"));
                expect(left == Some(0), || {
                    format!("by {iommu}: the device has not left sysfs: {left:?}")
                })?;
                let closed: Vec<_> = run
                    .messages()
                    .filter(|line| line.contains("failed"))
                    .collect();
                expect(closed.is_empty(), || {
                    format!("by {iommu}: closing the device met {closed:?}")
                })?;
            }
            back(outcome, &disk)
        }),
    }
}

fn lived_on(run: &Run<'_>) -> Result<()> {
    exit(run, 0)?;
    unbound(run.lab("unbind").next())?;
    expect(run.guest("loop-failed").next().is_some(), || {
        "the guest never saw its disk go".into()
    })?;
    expect(run.guest("done").any(|act| act == "loop"), || {
        "the guest did not live on without its disk".into()
    })
}

fn unbound(fact: Option<&str>) -> Result<()> {
    let took = fact.and_then(|fact| number(fact, "ms"));
    expect(took.is_some_and(|ms| ms <= PATIENCE_MS), || {
        format!("L1's unbind did not return in {PATIENCE_MS} ms: {fact:?}")
    })
}
