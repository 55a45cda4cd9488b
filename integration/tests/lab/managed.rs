//! `managed=on`: after every kind of end of a run, L1's own driver has the disk again, and the disk
//! works.

use lab::Result;
use lab::disk::Disk;
use lab::expect::{back_with_guest_text, ended_well, exit, expect, read, run, worked};
use lab::outcome::Outcome;
use lab::scenario::Scenario;

const DISK: Disk = Disk::new("lab-disk", 5);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_managed_device_goes_back_however_a_run_ends")
            .limit(240)
            .disk(DISK)
            .script(script(), check),
    ]
}

/// Power-off, an error, SIGTERM, SIGKILL to mini-vmm alone, and SIGKILL to its other processes too.
fn script() -> String {
    let bdf = DISK.bdf();
    let vmm = |more: &str| format!("mini-vmm $boot --vfio {bdf},managed=on {more}");
    let guest = vmm("--memory 256M --cmdline \"$cmdline\"");
    let busy = vmm("--memory 256M --cmdline \"$cmdline lab.act=loop\"");
    let error = vmm("--memory 900T");
    let start = format!("start_as '' {busy}\nawait 'L2: looping' 90\nsleep 0.3\n");
    format!(
        "drivers >/run/drivers\n\
         run_as '' {guest}\nstate power-off\nsay_back {bdf}\n\
         run_as '' {error}\nstate error\nsay_back {bdf}\n\
         {start}kill -TERM $vmm_pid\nwait_vmm\nstate TERM\nsay_back {bdf}\n\
         {start}guardian=$(child_of $vmm_pid vmm-guardian)\n\
         say guardian $(for f in /proc/$guardian/fd/*; do readlink $f; done | sort | uniq -c)\n\
         kill -INT $guardian\nkill -HUP $guardian\nkill -TERM $guardian\n\
         kill -KILL $vmm_pid\nwait_vmm\nawait_driver {bdf} nvme\nsay_back {bdf}\n\
         for _ in $(seq 50); do [ -d /proc/$guardian ] || break; sleep 0.1; done\nstate KILL\n\
         say log $(dmesg | grep -c 'mini-vmm: after a killed run: {bdf}: back with nvme')\n\
         {start}kill -KILL $(child_of $vmm_pid) $vmm_pid\nwait_vmm\n\
         sleep 1\nsay left $(driver_of {bdf})\n\
         host unbind {bdf}\nstate recovered\nsay_back {bdf}\n\
         run_as '' {guest}\nstate again\nsay_back {bdf}\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let states: Vec<_> = outcome.transcript.lab("state").collect();
    let wanted = ["power-off", "error", "TERM", "KILL", "recovered", "again"];
    let wanted = wanted.map(|what| format!("{what} same records=0"));
    expect(states == wanted, || format!("L1's drivers were {states:?}"))?;
    for index in [0, 5] {
        let run = run(outcome, index)?;
        ended_well(&run)?;
        worked(outcome, &run, &DISK)?;
    }
    exit(&run(outcome, 1)?, 1)?;
    for (index, status) in [(2, 0), (3, 137), (4, 137)] {
        let run = run(outcome, index)?;
        exit(&run, status)?;
        read(&run, &DISK)?;
    }
    let guardian = outcome
        .transcript
        .lab("guardian")
        .next()
        .unwrap_or_default();
    // All pidfds are mini-vmm's: two for the wait for calls, one for what comes after the run.
    // mini-vmm asks for calls by the socket with two descriptors, and where mini-vmm has a process
    // that binds devices, that one learns by the other socket which.
    let words: Vec<_> = guardian.split(' ').collect();
    let pairs: Vec<_> = words.chunks(2).collect();
    let count = |number: &str, kind: &str| {
        let own = pairs.iter().filter(|pair| pair[0] == number);
        own.filter(|pair| pair.get(1).is_some_and(|name| name.contains(kind)))
            .count()
    };
    let known = [
        count("3", "/dev/null"),
        count("3", "pidfd"),
        count("2", "socket:"),
    ];
    let news = count("1", "socket:");
    let only = known == [1; 3] && news <= 1 && pairs.len() == 3 + news;
    expect(only, || {
        format!("the guardian has other files open: {guardian}")
    })?;
    for fact in [("log", "1"), ("left", "vfio-pci"), ("host-exit", "0")] {
        let seen = outcome.transcript.lab(fact.0).next();
        expect(seen == Some(fact.1), || {
            format!("L1 saw {} {seen:?} instead of {}", fact.0, fact.1)
        })?;
    }
    let times = outcome.transcript.lab("back").count();
    expect(times == 6, || {
        format!("the disk was back {times} times, not 6")
    })?;
    back_with_guest_text(outcome, &DISK)
}
