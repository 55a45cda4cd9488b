//! Requests of the host for the device of a running guest.

use lab::command::{INTERFACES, Vmm};
use lab::disk::Disk;
use lab::expect::{back, expect, run};
use lab::scenario::Scenario;
use lab::transcript::{Run, number};
use lab::{Error, Result};

/// The time limit of an unbind. An unbind that waits for the guest's own timeouts would take tens
/// of seconds.
const PATIENCE_MS: u64 = 2000;

const DISK: Disk = Disk::new("lab-disk", 5);

pub fn all() -> Vec<Scenario> {
    vec![taken_back(), removed()]
}

/// L1 unbinds the device while the guest reads and writes, by each interface. The unbind returns
/// soon; the guest loses its disk and runs on until it powers off.
fn taken_back() -> Scenario {
    let bdf = DISK.bdf();
    let unbind = format!(
        "await 'L2: looping' 90\nsleep 0.5\n\
         before=$(milliseconds)\n\
         echo {bdf} >$sys/{bdf}/driver/unbind\n\
         say \"unbind ms=$(($(milliseconds) - before)) driver=$(driver_of {bdf})\""
    );
    let vmm = |interface| {
        Vmm::new(format!("--memory 512M --iommu {interface}"))
            .cmdline("nvme_core.io_timeout=2 nvme_core.admin_timeout=2 lab.act=loop")
            .meanwhile(&unbind)
            .exits(0)
    };
    let [container, iommufd] = INTERFACES;
    Scenario::new("the_host_takes_the_device_back")
        .limit(180)
        .disk(DISK)
        .vmm(vmm(container))
        .l1(format!("give_back {bdf}\nbind_vfio {bdf}"))
        .vmm(vmm(iommufd))
        .each_run(|_, run| lived_on(run))
        .degraded(&[&["device-returned"], &["device-returned"]])
}

/// L1 removes the device from its bus while the guest reads and writes, by each interface. The VMM
/// closes a device that leaves sysfs and reports no failed step, and the guest lives on.
fn removed() -> Scenario {
    let bdf = DISK.bdf();
    let script = INTERFACES.map(|interface| {
        format!(
            "bind_vfio {bdf}\n\
             start_vmm $boot --memory 512M --iommu {interface} \
             --cmdline \"$cmdline nvme_core.io_timeout=2 nvme_core.admin_timeout=2 \
             lab.act=loop\" \
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
    Scenario::new("a_device_leaves_the_bus_of_a_running_guest")
        .limit(180)
        .disk(DISK)
        .script(script.concat(), |outcome| {
            for (index, interface) in INTERFACES.into_iter().enumerate() {
                closed_without_a_word(&run(outcome, index)?)
                    .map_err(|error| Error::failed(format!("by {interface}: {error}")))?;
            }
            back(outcome, &DISK)
        })
        .degraded(&[&["device-returned"], &["device-returned"]])
}

fn closed_without_a_word(run: &Run<'_>) -> Result<()> {
    lived_on(run)?;
    let fact = run.lab("unbind").next();
    let left = fact.and_then(|fact| number(fact, "left"));
    expect(left == Some(0), || {
        format!("the device has not left sysfs: {left:?}")
    })?;
    let failed: Vec<_> = run
        .messages()
        .filter(|line| line.contains("failed"))
        .collect();
    expect(failed.is_empty(), || {
        format!("closing the device met {failed:?}")
    })
}

fn lived_on(run: &Run<'_>) -> Result<()> {
    let fact = run.lab("unbind").next();
    let took = fact.and_then(|fact| number(fact, "ms"));
    expect(took.is_some_and(|ms| ms <= PATIENCE_MS), || {
        format!("L1's unbind did not return in {PATIENCE_MS} ms: {fact:?}")
    })?;
    expect(run.guest("loop-failed").next().is_some(), || {
        "the guest never lost its disk".into()
    })?;
    expect(run.guest("done").any(|act| act == "loop"), || {
        "the guest did not run on without its disk".into()
    })
}
