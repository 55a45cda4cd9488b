//! A mediated device: two serial ports that a driver of L1's kernel makes up (samples/vfio-mdev/mtty.c).
//! Ports of I/O, and a pin that nothing but the VMM can unmask.

use std::time::Duration;

use lab::Result;
use lab::expect::{ended_well, expect, guest, run};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::{Run, number};

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// Lines that integration/resources/l2-acts.sh sends through each port.
const LINES: usize = 20;

pub fn all() -> Vec<Scenario> {
    vec![serial_ports()]
}

/// By UUID through the container, and by its path through iommufd; then L1 takes it away.
fn serial_ports() -> Scenario {
    let vmm = |device: &str, iommu: &str| {
        format!(
            "run_vmm --kernel bzImage --initrd initrd --memory 256M \
             --cmdline 'quiet panic=-1 lab.act=serial' --iommu {iommu} --vfio {device}\n"
        )
    };
    Scenario {
        name: "serial_ports_of_a_mediated_device",
        machine: Machine::with_disks(&[]),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "make_mdev {UUID} mtty-2\n{}{}run_vmm host list\nremove_mdev {UUID}\n",
            vmm(UUID, "container"),
            vmm(&format!("/sys/bus/mdev/devices/{UUID}"), "iommufd"),
        ),
        limit: Duration::from_secs(150),
        check: Box::new(|outcome| {
            let removed = format!("{UUID} yes");
            for index in [0, 1] {
                let run = run(outcome, index)?;
                ended_well(&run)?;
                echoed(&run)?;
            }
            let listed = run(outcome, 2)?;
            let lines: Vec<_> = listed.lines.iter().map(|line| &*line.text).collect();
            let at = lines
                .iter()
                .position(|line| line.ends_with(&format!("{UUID}  mediated device of mtty")));
            let after = at.and_then(|at| lines.get(at + 1..at + 3));
            expect(
                after
                    .is_some_and(|after| after[0].trim() == "ready" && after[1].contains("mtty-2")),
                || format!("the list does not have the mediated device: {lines:?}"),
            )?;
            let mut facts = outcome.transcript.lab("mdev-removed");
            expect(facts.next() == Some(&*removed), || {
                "L1 could not take the mediated device away".into()
            })
        }),
    }
}

/// Every line came back from both ports, each with interrupts.
fn echoed(run: &Run<'_>) -> Result<()> {
    let card = guest(run, "card")?;
    expect(card.ends_with("driver=serial"), || {
        format!("the guest has no driver for the ports: {card}")
    })?;
    expect(
        run.guest("irq").any(|line| line.contains("IO-APIC")),
        || "the guest's /proc/interrupts has no line of the card's pin".into(),
    )?;
    let lines: Vec<_> = run.guest("echoed").collect();
    expect(lines.len() == 2 * LINES, || {
        format!("{} lines came back, not {}", lines.len(), 2 * LINES)
    })?;
    let silent = lines
        .iter()
        .find(|line| number(line, "interrupts").unwrap_or(0) == 0);
    expect(silent.is_none(), || {
        format!("a line came back without an interrupt: {silent:?}")
    })
}
