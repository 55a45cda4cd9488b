//! SIGKILL to mini-vmm while devices are opened beside the guest: afterwards the host is whole.

use lab::Result;
use lab::disk::Disk;
use lab::expect::{back, expect};
use lab::outcome::Outcome;
use lab::scenario::Scenario;

use crate::endless_resets::{DEVICES, SLOW};

const DISK: Disk = Disk::new("lab-disk", 5);

/// When SIGKILL comes, in seconds after the start of a run whose device opens at once.
const MOMENTS: [&str; 6] = ["0.1", "0.2", "0.3", "0.5", "0.8", "1.5"];

pub fn all() -> Vec<Scenario> {
    let scenario = |name, interface| {
        Scenario::new(name)
            .limit(240)
            .disk(DISK)
            .qemu(&DEVICES)
            .script(script(interface), check)
    };
    vec![
        scenario("killed_while_a_container_opens_devices", "container").apart(),
        scenario("killed_while_iommufd_opens_devices", "iommufd"),
    ]
}

/// The port's register of its secondary bus is at 0x19. `asleep` waits until a call for a device
/// has slept for a second, and `no_helper` until no process of a run is left.
fn script(interface: &str) -> String {
    let (bdf, moments) = (DISK.bdf(), MOMENTS.join(" "));
    format!(
        "secondary() {{ printf $1 | dd of=$sys/0000:00:1c.0/config bs=1 seek=25 conv=notrunc \
             2>/dev/null; }}\n\
         calls() {{ cat /proc/[0-9]*/task/*/comm 2>/dev/null | grep -cx vmm-call; }}\n\
         asleep() {{ looks=0; for _ in $(seq 300); do \
             if [ $(calls) = 0 ]; then looks=0; else looks=$((looks + 1)); fi; \
             [ $looks = 10 ] && break; sleep 0.1; done; say asleep $looks; }}\n\
         helpers() {{ grep -lx vmm-guardian /proc/[0-9]*/comm 2>/dev/null | wc -l; }}\n\
         no_helper() {{ for _ in $(seq 900); do [ $(helpers) = 0 ] && break; sleep 0.1; done; }}\n\
         options=\"$boot -v --memory 256M --iommu {interface} --vfio {bdf}\"\n\
         killed() {{ kill -KILL $vmm_pid; wait_vmm; }}\n\
         await_driver {SLOW} nvme\ndrivers >/run/drivers\nhost bind {bdf}\nhost bind {SLOW}\n\
         secondary '\\376'\n\
         start_vmm $options --vfio {SLOW} --cmdline \"$cmdline\"\nasleep\nkilled\n\
         say helpers $(helpers)\nsecondary '\\001'\nno_helper\nsay helpers $(helpers)\n\
         echo 1 >$sys/{SLOW}/remove\necho 1 >/sys/bus/pci/rescan\nawait_driver {SLOW} nvme\n\
         host unbind {SLOW}\nhost unbind {bdf}\nstate asleep\nin_use asleep\n\
         for moment in {moments}; do\n\
             host bind {bdf}\nstart_vmm $options --cmdline \"$cmdline\"\nsleep $moment\nkilled\n\
             no_helper\nhost unbind {bdf}\nstate $moment\nin_use $moment\n\
         done\nsay_back {bdf}\n"
    )
}

fn facts(outcome: &Outcome, key: &str, wanted: &[String]) -> Result<()> {
    let seen: Vec<_> = outcome.transcript.lab(key).collect();
    expect(seen == wanted, || {
        format!("L1 saw {key} {seen:?} instead of {wanted:?}")
    })
}

fn check(outcome: &Outcome) -> Result<()> {
    let told = |line: &&lab::transcript::Line| line.text.contains("opened beside the guest");
    let beside = outcome.transcript.lines.iter().filter(told).count();
    expect(beside > 1, || {
        format!("{beside} runs have opened devices beside the guest")
    })?;
    facts(outcome, "asleep", &["10".into()])?;
    facts(outcome, "helpers", &["1".into(), "0".into()])?;
    let names = || ["asleep"].into_iter().chain(MOMENTS);
    let states: Vec<_> = names()
        .map(|name| format!("{name} same records=0"))
        .collect();
    facts(outcome, "state", &states)?;
    let in_use: Vec<_> = names()
        .map(|name| format!("{name} pinned=0 open=0"))
        .collect();
    facts(outcome, "in-use", &in_use)?;
    let binds = vec!["0".to_string(); 4 + 2 * MOMENTS.len()];
    facts(outcome, "host-exit", &binds)?;
    back(outcome, &DISK)
}
