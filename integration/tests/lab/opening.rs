//! Disks that are opened while the guest runs: the guest does not notice, and if one of them cannot
//! be opened, nothing was done to any.

use lab::Result;
use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{back, expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::Run;
use serde_json::Value;

use crate::disks::stats;

const DISK: Disk = Disk::new("lab-disk", 5);
const FREE: Disk = Disk::new("free", 5);
const HELD: Disk = Disk::new("held", 6);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_disk_is_opened_beside_the_guest")
            .disk(DISK)
            .by_each_interface(|_| Vmm::new("--memory 512M --stats=/run/stats.json"))
            .l1("cp /run/stats.json /run/stats.last\nsay_reports last")
            .each_run(|_, run| told_beside(run))
            .check(|outcome| beside(&stats(&run(outcome, 1)?, "last")?)),
        Scenario::new("nothing_is_done_to_a_disk_if_another_is_held")
            .disks(&[FREE, HELD])
            .script(script(), nothing_was_done),
    ]
}

fn told_beside(run: &Run<'_>) -> Result<()> {
    let told = |line: &str| line.contains("the devices are opened beside the guest");
    expect(run.messages().any(told), || {
        "mini-vmm does not open the disk beside the guest".into()
    })
}

/// The disk is opened after the guest has begun, and vCPUs have not waited for longer than that.
fn beside(stats: &Value) -> Result<()> {
    let phases = stats["phases"].as_array();
    let named = |name: &str| {
        let mut phases = phases.into_iter().flatten();
        phases.find(|phase| phase["name"] == name)
    };
    let end = |phase: &Value| phase["end_us"].as_u64();
    let opened = named("open_device").and_then(end).unwrap_or(0);
    let began = named("start_vcpus").and_then(end).unwrap_or(u64::MAX);
    let waited = stats["devices"][0]["waited_us"].as_u64();
    eprintln!("  vCPUs began at {began} us, the disk was open at {opened} us, waited {waited:?}");
    expect(began < opened, || {
        format!("the vCPUs began at {began} us, and the disk was open at {opened} us")
    })?;
    let most = stats["uptime_us"].as_u64();
    expect(waited.is_some() && waited < most, || {
        format!("a wait of {waited:?} us, of {most:?} us in all")
    })
}

/// Another run has the second disk. L1 looks all the time whether the first masters the bus.
fn script() -> String {
    let (free, held) = (FREE.bdf(), HELD.bdf());
    format!(
        "bind_vfio {free}\nbind_vfio {held}\n\
         mini-vmm $boot --memory 256M --iommu iommufd --vfio {held} \
             --cmdline \"$cmdline lab.disks=none lab.act=loop\" </dev/null >/run/holder 2>&1 &\n\
         holder=$!\n\
         for _ in $(seq 900); do grep -q 'L2: init' /run/holder && break; sleep 0.1; done\n\
         grep -q 'L2: init' /run/holder && say holder $holder\n\
         bits() {{ hexdump -s 4 -n 1 -v -e '1/1 \"%u\"' $sys/{free}/config; }}\n\
         : >/run/looks\n: >/run/mastered\n\
         ( while [ -e /run/looks ]; do echo >>/run/looks; [ $(($(bits) & 4)) = 0 ] || \
             echo >>/run/mastered; done ) >/dev/null 2>&1 &\n\
         looker=$!\n\
         run_vmm $boot -v --memory 256M --iommu iommufd --vfio {free} --vfio {held} \
             --cmdline \"$cmdline\"\n\
         say looks $(($(wc -l </run/looks) > 9)) mastered $(wc -l </run/mastered)\n\
         rm /run/looks\nwait $looker || :\n\
         kill $holder\nwait $holder || :\n\
         give_back {free}\ngive_back {held}\n"
    )
}

fn nothing_was_done(outcome: &Outcome) -> Result<()> {
    let run = run(outcome, 0)?;
    told_beside(&run)?;
    expect(run.exit() == Some(1), || {
        format!("the exit status is {:?}, not 1", run.exit())
    })?;
    let holder = outcome.transcript.lab("holder").next().unwrap_or_default();
    let all: Vec<_> = run.messages().collect();
    let all = all.join("\n");
    let holder = format!("process {holder} (mini-vmm) has it open");
    for word in [&HELD.bdf()[..], &holder, "hint: "] {
        expect(all.contains(word), || {
            format!("{word:?} is not said: {all}")
        })?;
    }
    let looks: Vec<_> = outcome.transcript.lab("looks").collect();
    expect(looks == ["1 mastered 0"], || {
        format!("L1 looked at the first disk: {looks:?}")
    })?;
    for disk in [FREE, HELD] {
        disk.check_untouched(&outcome.image(disk.serial))?;
        back(outcome, &disk)?;
    }
    Ok(())
}
