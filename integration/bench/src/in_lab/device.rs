//! Part 6: the program `mini-vmm-bench`, as its users run it, measures an NVMe disk in L1. Its
//! figures are in four files of its own: device.json, device.md, device.csv and device.html.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::disk::Disk;
use lab::kernel::Choice;
use lab::progress::Step;
use lab::scenario::Scenario;
use lab::setup::Lab;
use lab::transcript::Speaker;
use lab::{host, runner, vmm};

use super::reads::HALF;
use super::setup::Setup;
use crate::error::{Context, Error, Result};
use crate::results::Results;

/// The name of the files, in the bench's directory.
const NAME: &str = "device";

/// What L1 and the last turns may take beside the rounds.
const REST: Duration = Duration::from_secs(300);

/// Measures part 6, and writes its files.
pub fn run(setup: &Setup<'_>, _: &mut Results) -> Result<()> {
    let bench = vmm::bench()?;
    let lab = Lab::prepare(&[Choice::Lab], &[]);
    let scenario = scenario(setup.plan.budget);
    let step = Step::start("part 6, an NVMe disk by mini-vmm-bench");
    let mut report = None;
    runner::run(&scenario, &lab, &mut |line| {
        let said = |word| line.text.strip_prefix(word);
        match line.from {
            Speaker::Lab if said("report ").is_some() => {
                report = said("report ").map(str::to_owned);
            }
            Speaker::Lab if said("bench round ").is_some() => {
                step.at(said("bench ").unwrap_or_default());
            }
            _ => (),
        }
    })?;
    step.done();
    let report = report.ok_or_else(|| Error::new("mini-vmm-bench left no report"))?;
    let path = host::target().join("bench").join(format!("{NAME}.json"));
    fs::write(&path, report).context(format!("write {}", path.display()))?;
    let written = host::output(Command::new(bench).arg("report").arg(&path))?;
    println!("{}", written.trim_end());
    Ok(())
}

/// A machine with two CPUs, as for the other parts. QEMU has the disk in turn with mini-vmm.
fn scenario(budget: Duration) -> Scenario {
    let mut disk = Disk::new("bench", 5);
    disk.buffered = HALF;
    let minutes = budget.as_secs().div_ceil(60).max(1);
    let script = format!(
        "cd /run\n\
         mini-vmm-bench {} --guest-kernel /boot/bzImage --guest-cmdline \"$cmdline\" \
         --quick --time {minutes} --peer qemu-vfio --output {NAME} 2>&1 |\n\
         while read -r line; do say bench \"$line\"; done\n\
         say report $(cat {NAME}.json)\n",
        disk.bdf()
    );
    Scenario::new("bench-device")
        .built("mini-vmm-bench", vmm::bench)
        .inner_qemu()
        .limit((budget + REST).as_secs())
        .machine(|l1| l1.cpus = 2)
        .disk(disk)
        .script(script, |_| Ok(()))
}
