//! Hot-plug that does not go well: guests that give no device up, a run that is killed during an
//! add, and a client that asks meanwhile.

use lab::command::Vmm;
use lab::expect::{self, expect};
use lab::scenario::Scenario;
use lab::transcript::{number, value};

use crate::hot_plug::{DISK, FUNCTIONS, OPTIONS, is_whole};

pub fn all() -> Vec<Scenario> {
    vec![unwilling(), killed(), pinging()]
}

/// A guest without the driver of hot-plug slots, and one whose drivers get no processor time.
fn unwilling() -> Scenario {
    let bdf = DISK.bdf();
    let deaf = format!(
        "{FUNCTIONS}\n\
         await 'L2: listening' 90\n\
         ctl remove {bdf}\n\
         whole during\n\
         ctl remove {bdf} --force\n\
         whole before\n\
         ctl add {bdf}\n\
         ctl remove {bdf}\n\
         ctl remove {bdf} --force\n\
         whole after\n\
         ctl shutdown\n"
    );
    let starved = format!(
        "{FUNCTIONS}\n\
         await 'L2: listening' 90\n\
         whole before\n\
         ctl add {bdf}\n\
         await 'L2: starving' 60\n\
         whole during\n\
         ctl remove {bdf} --timeout 3\n\
         whole still\n\
         ctl remove {bdf} --force\n\
         whole after\n\
         ctl shutdown\n"
    );
    let vmm = |devices: String, act: &str, meanwhile: &String| {
        let vmm = Vmm::new(OPTIONS).devices(devices).cmdline(act).exits(0);
        vmm.meanwhile(meanwhile)
    };
    let behind = format!("--vfio {bdf},port=on");
    let act = "lab.act=idle lab.disks=none pcie_ports=compat";
    Scenario::new("a_guest_that_gives_no_device_up")
        .disk(DISK)
        .machine(|l1| l1.programs.push("/usr/bin/chrt".into()))
        .vmm(vmm(behind, act, &deaf))
        .vmm(vmm(String::new(), "lab.act=starve", &starved))
        .each_run(|index, run| {
            let answers: &[_] = match index {
                0 => &[
                    (1, "does not listen"),
                    (0, "is removed"),
                    (0, "does not listen"),
                    (1, "does not listen"),
                    (0, "is removed"),
                    (0, ""),
                ],
                _ => &[
                    (0, "behind the root port"),
                    (1, "has not given the device up in 3 s"),
                    (0, "is removed"),
                    (0, ""),
                ],
            };
            let said: Vec<_> = run.lab("ctl").collect();
            let right = said.iter().zip(answers).all(|(fact, (status, part))| {
                fact.contains(part) && number(fact, "status") == Some(*status)
            });
            expect(right && said.len() == answers.len(), || {
                format!("the answers are {said:?}")
            })?;
            is_whole(run)
        })
        .check(|outcome| {
            let run = expect::run(outcome, 1)?;
            let still = run.lab("whole").find(|fact| fact.starts_with("still "));
            let functions = still.and_then(|fact| number(fact, "functions"));
            expect(functions == Some(1), || {
                format!("the device has not stayed: {still:?}")
            })
        })
}

/// When SIGKILL comes: so many milliseconds after the begin of an add, or after the add has bound
/// the device.
const KILLS: [(&str, u64); 10] = [
    ("added", 0),
    ("added", 20),
    ("added", 60),
    ("added", 120),
    ("added", 300),
    ("bound", 0),
    ("bound", 20),
    ("bound", 80),
    ("bound", 250),
    ("bound", 1500),
];

/// SIGKILL to mini-vmm during an add with `managed=on`. The guardian gives the device back.
fn killed() -> Scenario {
    let bdf = DISK.bdf();
    let rounds: String = KILLS
        .map(|(when, ms)| {
            format!(
                "start_vmm $boot --memory 512M --ports 2 --api-socket /run/api.sock \
                 --cmdline \"$cmdline lab.act=idle\"\n\
                 until mini-vmm ctl /run/api.sock info >/run/info 2>/dev/null; do\n\
                 usleep 20000\n\
                 done\n\
                 mini-vmm ctl /run/api.sock add {bdf},managed=on >/run/add 2>&1 &\n\
                 adds=$!\n\
                 await_{when}\n\
                 usleep {}\n\
                 driver=$(driver_of {bdf})\n\
                 kill -9 $vmm_pid\n\
                 wait_vmm\n\
                 wait $adds || :\n\
                 await_driver {bdf} nvme\n\
                 await_files\n\
                 in_use '{when}={ms} at={{driver}}'\n",
                ms * 1000
            )
            .replace("{driver}", "'$driver'")
        })
        .concat();
    let script = format!(
        "await_files() {{\n\
         for _ in $(seq 100); do\n\
         ls -l /proc/[0-9]*/fd 2>/dev/null | grep -qE -e '-> (/dev/(kvm|vfio|iommu))' || return 0\n\
         sleep 0.1\n\
         done\n\
         }}\n\
         await_added() {{ :; }}\n\
         await_bound() {{\n\
         for _ in $(seq 2000); do\n\
         [ $(driver_of {bdf}) != vfio-pci ] || return 0\n\
         usleep 5000\n\
         done\n\
         }}\n\
         drivers >/run/drivers\n\
         in_use before\n\
         {rounds}\
         state after\n\
         say_back {bdf}\n"
    );
    Scenario::new("an_add_that_is_killed_leaves_the_host_whole")
        .slow()
        .limit(240)
        .disk(DISK)
        .script(script, |outcome| {
            let states: Vec<_> = outcome.transcript.lab("in-use").collect();
            expect(states.len() == KILLS.len() + 1, || {
                format!("the rounds are {states:?}")
            })?;
            for fact in &states {
                let free = (number(fact, "pinned"), number(fact, "open"));
                expect(free == (Some(0), Some(0)), || {
                    format!("something is in use: {fact}")
                })?;
            }
            let bound = states
                .iter()
                .filter(|f| value(f, "at") == Some("vfio-pci"))
                .count();
            let unbound = states
                .iter()
                .filter(|f| value(f, "at") == Some("nvme"))
                .count();
            expect(bound > 1 && unbound > 0, || {
                format!("SIGKILL came at one step alone: {states:?}")
            })?;
            let state = outcome.transcript.lab("state").next();
            expect(state == Some("after same records=0"), || {
                format!("the host has other drivers, or records: {state:?}")
            })?;
            expect::back(outcome, &DISK)
        })
}

/// Pings while the memory of a guest of 4 GiB is pinned for its first device.
fn pinging() -> Scenario {
    let bdf = DISK.bdf();
    let meanwhile = format!(
        "{FUNCTIONS}\n\
         await 'L2: listening' 180\n\
         ctl add {bdf} &\n\
         adds=$!\n\
         while kill -0 $adds 2>/dev/null; do\n\
         say \"ping $(curl --silent --max-time 20 --output /dev/null \
         --write-out 'code=%{{http_code}} s=%{{time_total}}' --unix-socket $socket \
         http://localhost/api/v1/vmm.ping)\"\n\
         usleep 50000\n\
         done\n\
         wait $adds\n\
         timeout 1 mini-vmm ctl $socket events --since 0 --json >/run/events || :\n\
         say \"adding lines=$(grep -c device-adding /run/events)\"\n\
         ctl shutdown\n"
    );
    Scenario::new("a_ping_while_four_gibibytes_are_pinned")
        .slow()
        .limit(600)
        .disk(DISK)
        .guests_leave_no_text()
        .machine(|l1| {
            l1.memory = 6144;
            l1.programs.push("/usr/bin/curl".into());
        })
        .vmm(
            Vmm::new("--memory 4G --ports 2 --api-socket /run/api.sock")
                .devices("")
                .by("container")
                .cmdline("lab.act=idle")
                .exits(0)
                .meanwhile(meanwhile),
        )
        .each_run(|_, run| {
            // L1 has one emulated CPU, and a busy machine makes all of it slower, or takes it away
            // for a moment. A ping that waits for the pinning takes far longer than the others.
            let mut took: Vec<_> = run
                .lab("ping")
                .map(|fact| match value(fact, "code") {
                    Some("200") => value(fact, "s").and_then(|s| s.parse::<f64>().ok()),
                    _ => None,
                })
                .map(|took| took.unwrap_or(f64::INFINITY))
                .collect();
            took.sort_by(f64::total_cmp);
            let usual = took.get(took.len() / 2).copied().unwrap_or_default();
            let over = |limit: f64| took.iter().filter(|took| **took >= limit).count();
            let late = over(f64::max(0.1, 3.0 * usual));
            let lost = over(f64::max(0.5, 10.0 * usual));
            expect(
                took.len() >= 5 && usual < 0.1 && late <= 1.max(took.len() / 20) && lost == 0,
                || format!("pings took {took:?} s"),
            )?;
            let adding = run
                .lab("adding")
                .next()
                .and_then(|fact| number(fact, "lines"));
            expect(adding.is_some_and(|lines| lines > 0), || {
                format!("no event told of the progress: {adding:?}")
            })
        })
}
