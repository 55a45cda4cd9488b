//! Devices that are added to a running guest and removed from it. The guest's part is
//! integration/resources/l2-plugs.sh.

use lab::Result;
use lab::command::{INTERFACES, Vmm};
use lab::disk::{Controller, Disk};
use lab::expect::{self, ended_well, expect, worked, worked_by};
use lab::kernel::Choice;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number, value};

pub const DISK: Disk = Disk::new("lab-disk", 5);
const OTHER: Disk = Disk::new("other-disk", 6);
/// An endpoint at the end of a link.
const ENDPOINT: Disk = Disk::behind("endpoint", 0, Controller::NvmeBehindPort);
pub const OPTIONS: &str = "--memory 512M --ports 2 --api-socket /run/api.sock";

/// Shell functions of L1 for this file.
///
/// - `ctl ARGS` runs `mini-vmm ctl`, and reports what it says and its status.
/// - `whole NAME` reports what a device takes from the host and from KVM.
/// - `await_event TEXT` waits until an event has TEXT.
pub const FUNCTIONS: &str = r#"
socket=/run/api.sock
ctl() {
	ctl_status=0
	mini-vmm ctl $socket "$@" >/run/ctl.out 2>&1 || ctl_status=$?
	say "ctl $1 status=$ctl_status $(tr '\n' ' ' </run/ctl.out)"
}
count_of() {
	mini-vmm ctl $socket counters --json | sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p"
}
whole() {
	echo 1 >/proc/sys/vm/stat_refresh
	pinned=$(awk '
		$1 == "nr_foll_pin_acquired" { n += $2 }
		$1 == "nr_foll_pin_released" { n -= $2 }
		END { print n }' /proc/vmstat)
	status=/proc/$vmm_pid/status
	say "whole $1 fds=$(ls /proc/$vmm_pid/fd | wc -l)" \
		"others=$(ls -l $(child_of $vmm_pid | sed 's|.*|/proc/&/fd|') | grep -c vfio || :)" \
		"slots=$(count_of memory_slots) gsis=$(count_of gsis)" \
		"dma=$(mini-vmm ctl $socket pci --json | sed '/"functions"/,$d' | grep -c '"' || :)" \
		"functions=$(mini-vmm ctl $socket info --json | grep -c pci_bdf || :)" \
		"locked=$(awk '$1 == "VmLck:" { print $2 }' $status)" \
		"pins=$(awk '$1 == "VmPin:" { print $2 }' $status)" \
		"pinned=$pinned threads=$(ls /proc/$vmm_pid/task | wc -l)" \
		"maps=$(grep -c vfio /proc/$vmm_pid/maps || :)"
	{
		ls -l /proc/$vmm_pid/fd | sed 's/.*-> //; s/:\[[0-9]*\]//' | sort
		cat /proc/$vmm_pid/task/*/comm | sort
	} >/run/held.$1
	if [ "$1" = after ]; then
		diff /run/held.before /run/held.after | grep '^[+-][^+-]' |
			while read -r line; do say "held-now $line"; done
	fi
}
await_event() {
	for _ in $(seq 300); do
		timeout 1 mini-vmm ctl $socket events --since 0 --json >/run/events 2>/dev/null || :
		! grep -q "$1" /run/events || return 0
	done
	say "await-failed event $1"
	return 1
}
"#;

pub fn all() -> Vec<Scenario> {
    vec![
        comes_and_goes(),
        by_the_pin(),
        stock(
            "a_disk_comes_and_goes_beside_another",
            Choice::Stock,
            "--vfio 0000:00:06.0",
            "lab.hurry=1",
        ),
        stock(
            "a_disk_comes_and_goes_with_the_newest_kernel",
            Choice::Newest,
            "",
            // The guest's kernel waits five seconds for a second press, and turns the power off.
            "",
        ),
        fifty("fifty_times_a_disk_under_load", "iommufd").slow(),
        fifty("fifty_times_a_disk_under_load_in_a_container", "container").apart(),
        manual(),
    ]
}

/// Adds and removes the disk so often. Then the guest gets it once more, and powers off with it.
fn cycles(count: u32, words: &str) -> Vmm {
    let bdf = DISK.bdf();
    Vmm::new(OPTIONS)
        .devices("")
        .cmdline(format!("lab.act=plug-{count} {words}"))
        .meanwhile(format!(
            "{FUNCTIONS}\n\
             await 'L2: listening' 90\n\
             whole before\n\
             for n in $(seq {count}); do\n\
             ctl add {bdf}\n\
             await \"L2: plugged n=$n \" 60\n\
             [ $n != 1 ] || whole during\n\
             ctl remove {bdf}\n\
             await \"L2: unplugged n=$n \" 60\n\
             done\n\
             whole after\n\
             ctl add {bdf}\n"
        ))
}

fn comes_and_goes() -> Scenario {
    let scenario = Scenario::new("a_disk_comes_and_goes").limit(240).disk(DISK);
    INTERFACES
        .into_iter()
        .fold(scenario, |scenario, interface| {
            scenario.vmm(cycles(3, "lab.hurry=1").by(interface))
        })
        .each_run(|_, run| came_and_went(run, 3))
        .check(all_worked)
}

/// A guest without MSI hears the slot and the disk by their pins, which are two: Linux gives a
/// device to its driver, and takes it away, in a thread of the slot's interrupt, and no driver can
/// free a shared interrupt before that thread has ended. The disk is at work when it goes. Linux
/// asks firmware for native hot-plug only if it uses MSI, or if it is told to.
fn by_the_pin() -> Scenario {
    let words = "lab.hurry=1 lab.busy=1 pci=nomsi pcie_ports=native";
    Scenario::new("a_disk_comes_and_goes_by_the_pin")
        .slow()
        .limit(240)
        .disk(DISK)
        .vmm(cycles(1, words).by("container"))
        .interrupt_chip("IO-APIC")
        .each_run(|_, run| came_and_went(run, 1))
        .check(|outcome| worked_by(outcome, &expect::run(outcome, 0)?, &DISK, "IO-APIC"))
}

/// Debian's kernels, which have no iommufd. Before Linux 6.7, KVM keeps memory types that are right
/// without a device, so the guest begins with another one.
fn stock(
    name: &'static str,
    kernel: Choice,
    others: &'static str,
    words: &'static str,
) -> Scenario {
    let scenario = Scenario::new(name)
        .kernel(kernel)
        .slow()
        .limit(240)
        .disk(DISK);
    let scenario = match others {
        "" => scenario,
        _ => scenario.disk(OTHER),
    };
    scenario
        .vmm(cycles(2, words).devices(others).by("container"))
        .each_run(|_, run| came_and_went(run, 2))
        .check(all_worked)
}

/// Fifty times under load.
fn fifty(name: &'static str, interface: &'static str) -> Scenario {
    Scenario::new(name)
        .limit(600)
        .disk(DISK)
        .vmm(cycles(50, "lab.hurry=1 lab.busy=1").by(interface))
        .each_run(|_, run| came_and_went(run, 50))
        .check(all_worked)
}

/// The scripts of docs/control.md that name `$device`.
fn manuals_scripts() -> Vec<&'static str> {
    let page = include_str!("../../../docs/control.md");
    let blocks = page.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    blocks.filter(|script| script.contains("$device")).collect()
}

/// What the manual says, by an endpoint of a link: its scripts; the descriptor of a device that
/// another process has opened; a pause; and the host, which wants the device for itself.
fn manual() -> Scenario {
    let bdf = ENDPOINT.bdf();
    let scripts: String = manuals_scripts()
        .iter()
        .zip(1..)
        .map(|(script, n)| {
            format!(
                "cat >/run/script <<'END'\n{script}END\n\
                 script_status=0\n\
                 sh -e -u /run/script >/run/script.out 2>&1 || script_status=$?\n\
                 say \"manual status=$script_status $(tr '\\n' ' ' </run/script.out)\"\n\
                 await \"L2: unplugged n={n} \" 60\n"
            )
        })
        .collect();
    let meanwhile = format!(
        "{FUNCTIONS}\n\
         export socket device={bdf}\n\
         say_link {bdf}\n\
         await 'L2: listening' 90\n\
         whole before\n\
         {scripts}\
         node=/dev/vfio/devices/$(ls $sys/{bdf}/vfio-dev)\n\
         ctl add fd=7 7<>$node\n\
         await 'L2: plugged n=3 ' 60\n\
         whole during\n\
         mini-vmm ctl $socket pause\n\
         ctl add {bdf}\n\
         ctl remove {bdf}\n\
         mini-vmm ctl $socket resume\n\
         ctl add {bdf}\n\
         ctl remove {bdf}\n\
         await 'L2: unplugged n=3 ' 60\n\
         ctl add {bdf}\n\
         await 'L2: plugged n=4 ' 60\n\
         began=$(milliseconds)\n\
         echo {bdf} >$sys/{bdf}/driver/unbind\n\
         say \"unbound ms=$(($(milliseconds) - began)) driver=$(driver_of {bdf})\"\n\
         await_event '\"device-removed\".*\"by\":\"host\"'\n\
         await 'L2: unplugged n=4 ' 60\n\
         echo {bdf} >/sys/bus/pci/drivers/vfio-pci/bind\n\
         ctl add {bdf}\n\
         await 'L2: plugged n=5 ' 60\n\
         ctl remove {bdf}\n\
         await 'L2: unplugged n=5 ' 60\n\
         whole after\n\
         ctl add {bdf}\n"
    );
    Scenario::new("what_the_manual_says_of_hot_plug")
        .limit(240)
        .disk(ENDPOINT)
        .machine(|l1| l1.programs.push("/usr/bin/curl".into()))
        .vmm(
            Vmm::new(OPTIONS)
                .devices("")
                .by("iommufd")
                .cmdline("lab.act=plug-5 lab.hurry=1")
                .meanwhile(meanwhile),
        )
        .degraded(&[&["device-returned"]])
        .each_run(|_, run| as_the_manual_says(run))
        .check(|outcome| worked(outcome, &expect::run(outcome, 0)?, &ENDPOINT))
}

fn as_the_manual_says(run: &Run<'_>) -> Result<()> {
    all_plugged(run, 5)?;
    let scripts: Vec<_> = run.lab("manual").collect();
    let good = scripts.iter().all(|fact| number(fact, "status") == Some(0));
    expect(good && scripts.len() == manuals_scripts().len(), || {
        format!("a script of the manual fails: {scripts:?}")
    })?;
    let bdf = ENDPOINT.bdf();
    let removed = format!("remove status=0 {bdf} is removed");
    let answers = [
        "add status=0",
        "the guest is paused",
        "the guest is paused",
        "is the guest's already",
        &removed,
        "add status=0",
        "add status=0",
        &removed,
        "add status=0",
    ];
    let said: Vec<_> = run.lab("ctl").collect();
    let as_expected = said
        .iter()
        .zip(answers)
        .all(|(fact, part)| fact.contains(part));
    expect(as_expected && said.len() == answers.len(), || {
        format!("the answers are {said:?}, and not {answers:?}")
    })?;
    let unbound = run.lab("unbound").next().unwrap_or_default();
    let quickly = number(unbound, "ms").is_some_and(|ms| ms < 15_000);
    expect(quickly && value(unbound, "driver") == Some("none"), || {
        format!("the host did not get its device by asking: {unbound}")
    })?;
    // The guest's last look at the links was with the device.
    let links = |fact: &str| fact.split_once(' ').map(|(_, link)| link.to_owned());
    let host = run.lab("link").next().and_then(links).unwrap_or_default();
    let device = run
        .guest("link")
        .filter(|fact| !fact.starts_with("0000:00:"));
    let device = device.last().and_then(links).unwrap_or_default();
    expect(host.contains("GT/s") && host == device, || {
        format!("the guest's device has the link \"{device}\", the host's \"{host}\"")
    })?;
    is_whole(run)
}

pub fn all_worked(outcome: &Outcome) -> Result<()> {
    for run in outcome.transcript.runs() {
        worked(outcome, &run, &DISK)?;
    }
    Ok(())
}

/// The guest used the disk so often, and nothing is left of it in the guest.
pub fn all_plugged(run: &Run<'_>, count: u32) -> Result<()> {
    ended_well(run)?;
    for n in 1..=count {
        for (key, wanted) in [
            ("plugged", format!("n={n} ")),
            ("unplugged", format!("n={n} iomem=same")),
        ] {
            expect(run.guest(key).any(|fact| fact.starts_with(&wanted)), || {
                let all: Vec<_> = run.guest(key).collect();
                format!("the guest has not said \"{key} {wanted}\": {all:?}")
            })?;
        }
    }
    Ok(())
}

/// The guest used the disk so often, and afterwards nothing of it is left on the host, in KVM or in
/// the guest.
fn came_and_went(run: &Run<'_>, count: u32) -> Result<()> {
    all_plugged(run, count)?;
    let requests: Vec<_> = run.lab("ctl").collect();
    let wrong = requests
        .iter()
        .find(|fact| number(fact, "status") != Some(0));
    expect(
        wrong.is_none() && requests.len() == 2 * count as usize + 1,
        || {
            format!(
                "a request was refused, or is missing: {wrong:?} of {}",
                requests.len()
            )
        },
    )?;
    is_whole(run)
}

/// What the first device of a run leaves for the next ones: KVM's pseudo-device for VFIO, of which
/// a VM has one (Documentation/virt/kvm/devices/vfio.rst), and the thread that hears devices.
const KEPT: [&str; 2] = ["+anon_inode:kvm-vfio", "+device events"];

/// What a run holds before and after is the same, and more is held during.
pub fn is_whole(run: &Run<'_>) -> Result<()> {
    let state = |name: &str| {
        let fact = run
            .lab("whole")
            .find(|fact| fact.starts_with(&format!("{name} ")));
        fact.unwrap_or_default().to_owned()
    };
    let (before, during, after) = (state("before"), state("during"), state("after"));
    let held: Vec<_> = run.lab("held-now").collect();
    let counts = |fact: &str| {
        let names = [
            "others",
            "slots",
            "gsis",
            "dma",
            "functions",
            "locked",
            "pins",
        ];
        let names = names.into_iter().chain(["pinned", "maps"]);
        names
            .map(|name| number(fact, name))
            .collect::<Option<Vec<_>>>()
    };
    let same = counts(&before).is_some() && counts(&before) == counts(&after);
    let kept = held.iter().all(|line| KEPT.contains(line)) && held.len() <= KEPT.len();
    let files = number(&after, "fds") <= number(&before, "fds").map(|n| n + 1);
    expect(same && kept && files, || {
        format!("before, the run held {before}, and now {after}: {held:?}")
    })?;
    // A first device pins the guest's memory.
    let first = number(&before, "functions") == Some(0);
    let of_first: &[_] = if first { &["dma", "pinned"] } else { &[] };
    // A pin leads to a GSI that is there already.
    let of_messages: &[_] = match run.command().contains("pci=nomsi") {
        true => &[],
        false => &["gsis"],
    };
    let always = ["fds", "slots", "functions", "maps"].iter();
    for name in always.chain(of_messages).chain(of_first) {
        let more = number(&during, name) > number(&before, name);
        expect(more, || {
            format!("the device took no {name}: {before}, {during}")
        })?;
    }
    Ok(())
}
