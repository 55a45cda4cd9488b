//! A device that fails while a guest works with it.

use std::time::Duration;

use lab::Result;
use lab::expect::{exit, expect, guest, run};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Outcome, Scenario};
use lab::transcript::Run;

/// Behind a root port: errors travel by it.
const CARD: &str = "0000:01:00.0";

/// Bits of the AER capability's uncorrectable status (PCI Express 6.0, 7.8.4.2), lowest byte first.
const COMPLETION_TIMEOUT: &str = r"\x00\x40\x00\x00";
const MALFORMED_PACKET: &str = r"\x00\x00\x04\x00";

/// md5sum(1) of the numbers to 40000, a line each.
const SUM: &str = "md5=1c0f34fee7176dc367bead8f96cba6bc";

pub fn all() -> Vec<Scenario> {
    vec![
        failure("a_failed_device_is_fenced_in_a_container", "container"),
        failure("a_failed_device_is_fenced_by_iommufd", "iommufd"),
    ]
}

/// Nothing is on the way when the error comes: QEMU 7.2 dies of an assertion when MSI-X is turned off
/// while this card holds an interrupt back (e1000e_intrmgr_on_msix_throttling_timer).
///
/// The card reports an error that the host can go on from, and in a second run one for which the host
/// resets the link. Each time the guest loses the card and lives on, and the host has it back whole.
fn failure(name: &'static str, iommu: &str) -> Scenario {
    let one = |bits| {
        format!(
            "bind_vfio {CARD}\n\
             start_vmm --kernel bzImage --initrd initrd --memory 512M --iommu {iommu} \
             --cmdline 'quiet panic=-1 lab.act=lose-net' --vfio {CARD}\n\
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
    Scenario {
        name,
        machine: Machine::with_device(&[
            "-device",
            "pcie-root-port,id=root,addr=1c",
            "-netdev",
            "user,id=net,restrict=on",
            "-device",
            "e1000e,netdev=net,bus=root,romfile=",
        ]),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "ping_from {CARD}\nsnapshot >/run/before\n{}{}",
            one(COMPLETION_TIMEOUT),
            one(MALFORMED_PACKET)
        ),
        limit: Duration::from_secs(200),
        check: Box::new(|outcome| {
            for index in [0, 1] {
                fenced(&run(outcome, index)?)?;
            }
            whole(outcome)
        }),
    }
}

/// The guest worked with the card, saw it go, and lived on; mini-vmm said so in one line.
fn fenced(run: &Run<'_>) -> Result<()> {
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

/// Before and after each run, the host's own driver talks to the network.
fn whole(outcome: &Outcome) -> Result<()> {
    let pinged: Vec<_> = outcome.transcript.lab("pinged").collect();
    let said = format!("{CARD} driver=e1000e sent=20 received=20");
    expect(
        pinged.len() == 3 && pinged.iter().all(|p| *p == said),
        || format!("the card does not work on the host as before: {pinged:?}"),
    )?;
    let unchanged = outcome.transcript.lab("unchanged").count();
    expect(unchanged == 2, || {
        "the host is not as it was before the runs".into()
    })
}
