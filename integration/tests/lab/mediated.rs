//! A mediated device: two serial ports that a driver in L1's kernel emulates
//! (samples/vfio-mdev/mtty.c). The ports have I/O ports, and an interrupt pin that only the VMM can
//! unmask.

use lab::Result;
use lab::command::Vmm;
use lab::expect::{expect, guest, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// The driver has no reset, no request, and takes no eventfd that unmasks the pin.
const LACKS: &[&str] = &["intx-by-thread", "no-request-event", "no-reset"];

/// Lines that the guest sends through each port (integration/resources/l2-acts.sh).
const LINES: usize = 20;

/// The container gets the device by its UUID, and iommufd by its path.
pub fn all() -> Vec<Scenario> {
    let vmm = |interface: &str, device: &str| {
        Vmm::new(format!("--memory 256M --iommu {interface}"))
            .cmdline("lab.act=serial")
            .devices(format!("--vfio {device}"))
    };
    vec![
        Scenario::new("serial_ports_of_a_mediated_device")
            .before(format!("make_mdev {UUID} mtty-2"))
            .vmm(vmm("container", UUID))
            .vmm(vmm("iommufd", &format!("/sys/bus/mdev/devices/{UUID}")))
            .each_run(|_, run| echoed(run))
            .degraded(&[LACKS, LACKS])
            .l1(format!("run_vmm host list\nremove_mdev {UUID}"))
            .check(listed_and_removed),
    ]
}

fn listed_and_removed(outcome: &Outcome) -> Result<()> {
    let listed = run(outcome, 2)?;
    let lines: Vec<_> = listed.lines.iter().map(|line| &*line.text).collect();
    let at = lines
        .iter()
        .position(|line| line.ends_with(&format!("{UUID}  mediated device of mtty")));
    let after = at.and_then(|at| lines.get(at + 1..at + 3));
    expect(
        after.is_some_and(|after| after[0].trim() == "ready" && after[1].contains("mtty-2")),
        || format!("the list does not have the mediated device: {lines:?}"),
    )?;
    let removed = outcome.transcript.lab("mdev-removed").next();
    expect(removed == Some(&*format!("{UUID} yes")), || {
        "L1 could not remove the mediated device".into()
    })
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
    let without = lines
        .iter()
        .find(|line| number(line, "interrupts").unwrap_or(0) == 0);
    expect(without.is_none(), || {
        format!("a line came back without an interrupt: {without:?}")
    })
}
