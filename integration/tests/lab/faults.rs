//! A device that fails while a guest works with it.

use lab::Result;
use lab::expect::{exit, expect, guest, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::Run;

/// Behind a root port, which reports the card's errors.
const CARD: &str = "0000:01:00.0";

/// Bits of the AER capability's uncorrectable status (PCI Express 6.0, 7.8.4.2), lowest byte first.
const COMPLETION_TIMEOUT: &str = r"\x00\x40\x00\x00";
const MALFORMED_PACKET: &str = r"\x00\x00\x04\x00";

/// md5sum(1) of the numbers up to 40000, one on each line.
const SUM: &str = "md5=1c0f34fee7176dc367bead8f96cba6bc";

pub fn all() -> Vec<Scenario> {
    vec![
        failure(
            "a_failed_device_is_disconnected_in_a_container",
            "container",
        ),
        failure("a_failed_device_is_disconnected_by_iommufd", "iommufd"),
    ]
}

/// The card reports an error that the host survives. In a second run, it reports an error after
/// which the host resets the link. Each time the guest loses the card and runs on, and the card
/// works again in L1.
///
/// The card is idle when the error occurs: QEMU 7.2 fails an assertion when MSI-X is turned off
/// while this card delays an interrupt (e1000e_intrmgr_on_msix_throttling_timer).
fn failure(name: &'static str, iommu: &str) -> Scenario {
    let one = |bits| {
        format!(
            "bind_vfio {CARD}\n\
             start_vmm $boot --memory 512M --iommu {iommu} \
             --cmdline \"$cmdline lab.act=lose-net\" --vfio {CARD}\n\
             await 'L2: watching' 90\nsleep 0.5\n\
             inject_error {CARD} '{bits}'\n\
             wait_vmm\n\
             echo >$sys/{CARD}/driver_override\n\
             echo {CARD} >$sys/{CARD}/driver/unbind\n\
             echo {CARD} >/sys/bus/pci/drivers_probe\n\
             snapshot >/run/after\n\
             cmp /run/before /run/after && say 'unchanged yes'\n\
             ping_from {CARD}\n"
        )
    };
    let script = format!(
        "ping_from {CARD}\nsnapshot >/run/before\n{}{}",
        one(COMPLETION_TIMEOUT),
        one(MALFORMED_PACKET)
    );
    Scenario::new(name)
        .limit(200)
        .qemu(&[
            "-device",
            "pcie-root-port,id=root,addr=1c",
            "-netdev",
            "user,id=net,restrict=on",
            "-device",
            "e1000e,netdev=net,bus=root,romfile=",
        ])
        .script(script, |outcome| {
            for index in [0, 1] {
                disconnected(&run(outcome, index)?)?;
            }
            works_on_the_host(outcome)
        })
        .degraded(&[&["device-failed"], &["device-failed"]])
}

/// The guest worked with the card, lost it and ran on; mini-vmm said so in one line.
fn disconnected(run: &Run<'_>) -> Result<()> {
    exit(run, 0)?;
    for (key, said) in [
        ("ping", "sent=20 received=20"),
        ("watching", "id=10d38086"),
        ("gone", "id=ffffffff"),
        ("unbound", "driver=none register=0xFFFFFFFF"),
        ("lives", SUM),
        ("done", "poweroff"),
    ] {
        let fact = guest(run, key)?;
        expect(fact == said, || {
            format!("the guest said {key} \"{fact}\" instead of \"{said}\"")
        })?;
    }
    let told: Vec<_> = run.messages().collect();
    expect(
        told.len() == 1 && told[0].contains(CARD) && told[0].contains("has failed"),
        || format!("mini-vmm did not say in one line that the card has failed: {told:?}"),
    )
}

/// L1's own driver reaches the network before the first run and after each run.
fn works_on_the_host(outcome: &Outcome) -> Result<()> {
    let pinged: Vec<_> = outcome.transcript.lab("pinged").collect();
    let said = format!("{CARD} driver=e1000e sent=20 received=20");
    expect(
        pinged.len() == 3 && pinged.iter().all(|p| *p == said),
        || format!("the card does not work in L1 as before: {pinged:?}"),
    )?;
    let unchanged = outcome.transcript.lab("unchanged").count();
    expect(unchanged == 2, || {
        "the host is not as it was before the runs".into()
    })
}
