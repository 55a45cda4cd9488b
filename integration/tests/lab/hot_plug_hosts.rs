//! Hot-plug and the host: devices that mini-vmm binds for an add and gives back, a client that
//! leaves during an add, and a host that takes its device away.

use lab::Result;
use lab::command::{INTERFACES, Vmm};
use lab::disk::Disk;
use lab::expect::{expect, worked};
use lab::scenario::Scenario;
use lab::transcript::{Run, number, value};

use crate::hot_plug::{DISK, FUNCTIONS, OPTIONS, all_plugged, all_worked, is_whole};

/// Two functions of one device of the host.
const FIRST: Disk = Disk::new("first-disk", 5);
const SECOND: Disk = Disk::new("second-disk", 5).at_function(1);

pub fn all() -> Vec<Scenario> {
    vec![functions(), managed(), wanted()]
}

/// Both functions of a device come by one request, and go by a request for one of them.
fn functions() -> Scenario {
    let (first, second) = (FIRST.bdf(), SECOND.bdf());
    let meanwhile = format!(
        "{FUNCTIONS}\n\
         await 'L2: listening' 90\n\
         whole before\n\
         ctl add {second} {first}\n\
         await 'L2: plugged n=1 ' 60\n\
         whole during\n\
         ctl remove {second}\n\
         await 'L2: unplugged n=1 ' 60\n\
         whole after\n\
         ctl add {first} {second}\n"
    );
    let scenario = Scenario::new("both_functions_of_a_device_come_and_go")
        .apart()
        .limit(240)
        .disks(&[FIRST, SECOND]);
    INTERFACES
        .into_iter()
        .fold(scenario, |scenario, interface| {
            let vmm = Vmm::new(OPTIONS).devices("").by(interface);
            let act = "lab.act=plug-1 lab.hurry=1 lab.functions=2";
            scenario.vmm(vmm.cmdline(act).meanwhile(&meanwhile))
        })
        .each_run(|_, run| {
            all_plugged(run, 1)?;
            answered(run, &["is", "is removed", "is"])?;
            let during = run.lab("whole").find(|fact| fact.starts_with("during "));
            let functions = during.and_then(|fact| number(fact, "functions"));
            expect(functions == Some(2), || {
                format!("both functions are not the guest's: {during:?}")
            })?;
            let numbers: Vec<_> = run.guest("plugged").collect();
            let both = |fact: &str| fact.contains(".0,") && fact.contains(".1,");
            expect(numbers.iter().all(|fact| both(fact)), || {
                format!("the guest found {numbers:?}")
            })?;
            is_whole(run)
        })
        .check(|outcome| {
            for run in outcome.transcript.runs() {
                worked(outcome, &run, &FIRST)?;
                worked(outcome, &run, &SECOND)?;
            }
            Ok(())
        })
}

/// A disk that the host's own driver has, and that mini-vmm binds for each add. The first client
/// leaves once the disk is bound, and the add is undone. After the removal the host's driver copies
/// on the disk.
fn managed() -> Scenario {
    let bdf = DISK.bdf();
    let meanwhile = format!(
        "{FUNCTIONS}\n\
         await 'L2: listening' 90\n\
         whole before\n\
         drivers >/run/drivers\n\
         mini-vmm ctl $socket add {bdf},managed=on >/run/gone 2>&1 &\n\
         leaves=$!\n\
         await_driver {bdf} vfio-pci\n\
         kill -9 $leaves\n\
         wait $leaves || :\n\
         await_driver {bdf} nvme\n\
         await_idle\n\
         whole left\n\
         say \"gone found=$(grep -c device-added /run/events || :) $(tr '\\n' ' ' </run/gone)\"\n\
         state left\n\
         ctl add {bdf},managed=on\n\
         await 'L2: plugged n=1 ' 60\n\
         whole during\n\
         say \"has $(driver_of {bdf})\"\n\
         ctl remove {bdf}\n\
         await 'L2: unplugged n=1 ' 60\n\
         await_driver {bdf} nvme\n\
         whole after\n\
         state after\n\
         say_back {bdf}\n\
         copy_again {bdf}\n\
         ctl add {bdf},managed=on\n"
    );
    // Nobody is told of the end of an add that nobody waits for.
    let idle = "await_idle() {\n\
         timeout 1 mini-vmm ctl $socket events --since 0 --json >/run/events 2>/dev/null || :\n\
         for _ in $(seq 100); do\n\
         [ \"$(mini-vmm ctl $socket pci --json | sed '/\"functions\"/,$d' | grep -c '\"')\" != 1 ] \
         || return 0\n\
         sleep 0.1\n\
         done\n\
         }\n";
    let scenario = Scenario::new("the_hosts_driver_has_its_disk_back_after_each_add")
        .apart()
        .limit(240)
        .machine(|l1| l1.disks.push(DISK));
    INTERFACES
        .into_iter()
        .fold(scenario, |scenario, interface| {
            let vmm = Vmm::new(OPTIONS).devices("").by(interface);
            let act = "lab.act=plug-1 lab.hurry=1";
            scenario.vmm(vmm.cmdline(act).meanwhile(format!("{idle}{meanwhile}")))
        })
        .each_run(|_, run| {
            all_plugged(run, 1)?;
            answered(run, &["is", "is removed", "is"])?;
            as_before_the_client_left(run)?;
            expect(run.lab("has").next() == Some("vfio-pci"), || {
                format!("the disk had {:?}", run.lab("has").next())
            })?;
            let states: Vec<_> = run.lab("state").collect();
            let same = ["left same records=0", "after same records=0"];
            expect(states == same, || format!("the drivers are {states:?}"))?;
            let copied = run.lab("copied").next();
            expect(copied == Some("same"), || {
                format!("the host's driver copied {copied:?}")
            })?;
            is_whole(run)
        })
        .check(all_worked)
}

/// The client has left during the add: nothing came into the guest, and nothing is held.
fn as_before_the_client_left(run: &Run<'_>) -> Result<()> {
    let state = |name: &str| {
        let fact = run.lab("whole").find(|fact| fact.starts_with(name));
        let counts = [
            "slots",
            "gsis",
            "dma",
            "functions",
            "locked",
            "pins",
            "pinned",
            "maps",
        ];
        fact.and_then(|fact| {
            counts
                .map(|count| number(fact, count))
                .into_iter()
                .collect::<Option<Vec<_>>>()
        })
    };
    let (before, left) = (state("before "), state("left "));
    expect(before.is_some() && before == left, || {
        format!("the add that nobody waited for has left {left:?}, and before it was {before:?}")
    })?;
    let gone = run.lab("gone").next().unwrap_or_default();
    expect(number(gone, "found") == Some(0), || {
        format!("the device was added, though its client had gone: {gone}")
    })
}

/// A guest whose drivers get no processor time: the host waits for its device for 20 seconds.
fn wanted() -> Scenario {
    let bdf = DISK.bdf();
    let meanwhile = format!(
        "{FUNCTIONS}\n\
         await 'L2: listening' 90\n\
         whole before\n\
         ctl add {bdf}\n\
         await 'L2: starving' 60\n\
         whole during\n\
         began=$(milliseconds)\n\
         echo {bdf} >$sys/{bdf}/driver/unbind\n\
         say \"unbound ms=$(($(milliseconds) - began)) driver=$(driver_of {bdf})\"\n\
         await_event '\"device-removed\".*\"by\":\"host\"'\n\
         whole after\n\
         ctl remove {bdf} --force\n\
         echo {bdf} >/sys/bus/pci/drivers/vfio-pci/bind\n\
         ctl add {bdf}\n\
         ctl shutdown\n"
    );
    let scenario = Scenario::new("the_host_takes_its_disk_after_20_s")
        .apart()
        .limit(300)
        .disk(DISK)
        .machine(|l1| l1.programs.push("/usr/bin/chrt".into()))
        .degraded(&[&["device-returned"], &["device-returned"]]);
    INTERFACES
        .into_iter()
        .fold(scenario, |scenario, interface| {
            let vmm = Vmm::new(OPTIONS).devices("").by(interface).exits(0);
            scenario.vmm(vmm.cmdline("lab.act=starve").meanwhile(&meanwhile))
        })
        .each_run(|_, run| {
            let unbound = run.lab("unbound").next().unwrap_or_default();
            let in_time = number(unbound, "ms").is_some_and(|ms| (20_000..35_000).contains(&ms));
            expect(in_time && value(unbound, "driver") == Some("none"), || {
                format!("the host has its device too early, too late or never: {unbound}")
            })?;
            let said: Vec<_> = run.lab("ctl").collect();
            let statuses: Vec<_> = said.iter().map(|fact| number(fact, "status")).collect();
            expect(statuses == [Some(0), Some(1), Some(0), Some(0)], || {
                format!("the answers are {said:?}")
            })?;
            is_whole(run)
        })
}

/// Each request was carried out, and its answer has this text.
fn answered(run: &Run<'_>, answers: &[&str]) -> Result<()> {
    let said: Vec<_> = run.lab("ctl").collect();
    let right = said
        .iter()
        .zip(answers)
        .all(|(fact, part)| fact.contains(part) && number(fact, "status") == Some(0));
    expect(right && said.len() == answers.len(), || {
        format!("the answers are {said:?}")
    })
}
