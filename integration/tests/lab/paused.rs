//! A pause: the guest's vCPUs stop while its disk is at work, and go on as if nothing had happened.

use lab::Result;
use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{ended_well, expect, guest};
use lab::kernel::Choice;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

/// Longer than the 20 seconds of Linux's detector of soft lockups, and the 21 of that of RCU stalls
/// (Documentation/admin-guide/lockup-watchdogs.rst, Documentation/RCU/stallwarn.rst).
const SECONDS: u64 = 30;

pub fn all() -> Vec<Scenario> {
    let ctl = "mini-vmm ctl /run/api.sock";
    vec![
        Scenario::new("a_pause_under_load_goes_unnoticed")
            // Debian's kernel has the detector of soft lockups.
            .kernel(Choice::Stock)
            .limit(240)
            .disk(Disk::new("lab-disk", 5))
            .vmm(
                Vmm::new("--memory 512M --api-socket /run/api.sock")
                    .cmdline("lab.act=paused")
                    .meanwhile(format!(
                        "await 'L2: looping' 120\n\
                         sleep 1\n\
                         {ctl} pause\n\
                         say \"state $({ctl} info | head -n 1)\"\n\
                         before=$(wc -c </run/vmm.console)\n\
                         sleep {SECONDS}\n\
                         say \"printed bytes=$(($(wc -c </run/vmm.console) - before))\"\n\
                         {ctl} resume\n\
                         say \"event $({ctl} events --since 0 | head -n 2 | tail -n 1)\"\n"
                    )),
            )
            .each_run(|_, run| unnoticed(run)),
    ]
}

fn unnoticed(run: &Run<'_>) -> Result<()> {
    ended_well(run)?;
    let state = run.lab("state").next().unwrap_or_default();
    expect(state.starts_with("state    paused, boot 1"), || {
        format!("mini-vmm tells another state: {state}")
    })?;
    let printed = run.lab("printed").next();
    expect(printed.and_then(|p| number(p, "bytes")) == Some(0), || {
        format!("the paused guest printed something: {printed:?}")
    })?;
    let event = run.lab("event").next();
    expect(event == Some("2 resumed"), || {
        format!("mini-vmm tells another event: {event:?}")
    })?;
    let paused = guest(run, "paused")?;
    expect(
        number(paused, "s").is_some_and(|s| s + 2 >= SECONDS),
        || format!("the guest's clock did not go on: {paused}"),
    )?;
    // The detectors are there, and saw nothing.
    let log = guest(run, "log")?;
    expect(
        number(log, "watchdog") == Some(1) && number(log, "lines") == Some(0),
        || format!("the guest's log tells of the pause: {log}"),
    )
}
