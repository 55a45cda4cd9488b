//! `--sandbox on` with real devices: while the guest runs, after its reset, and after a hot-plug,
//! each thread of the VMM has a filter, no_new_privs and no capability, though L1 is root.

use lab::Result;
use lab::command::Vmm;
use lab::expect::{ended_well, expect};
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

use crate::hot_plug::{DISK, FUNCTIONS, OPTIONS, is_whole};

/// Shell functions of L1.
///
/// - `confined NAME` reports how many threads mini-vmm has, and how many of them lack a part of the
///   sandbox (proc_pid_status(5)).
/// - `await_second TEXT` waits until TEXT is twice on the guest's console, or mini-vmm has ended.
const CONFINED: &str = r#"
confined() {
	loose=0
	for status in /proc/$vmm_pid/task/*/status; do
		# A thread may have ended.
		awk '
			$1 == "Seccomp:" && $2 == 2 { n++ }
			$1 == "NoNewPrivs:" && $2 == 1 { n++ }
			$1 == "CapEff:" && $2 ~ /^0+$/ { n++ }
			END { exit n != 3 }' $status || [ ! -e $status ] || loose=$((loose + 1))
	done
	say "confined $1 loose=$loose threads=$(ls /proc/$vmm_pid/task | wc -l)"
}
await_second() {
	while [ "$(grep -cF "$1" /run/vmm.console)" -lt 2 ] && kill -0 $vmm_pid 2>/dev/null; do
		sleep 0.1
	done
}
"#;

/// The guest's expansion ROM that no flag of the run names.
const ROM: &str = "/run/rom";

pub fn all() -> Vec<Scenario> {
    vec![
        reset("a_disk_in_the_sandbox_and_a_reset", "container"),
        reset("a_disk_in_the_sandbox_and_a_reset_by_iommufd", "iommufd").apart(),
        plugged("a_disk_comes_and_goes_in_the_sandbox", "iommufd"),
        plugged(
            "a_disk_comes_and_goes_in_the_sandbox_by_a_container",
            "container",
        )
        .apart(),
    ]
}

/// A guest's reset, and `--stats` with SIGUSR1.
fn reset(name: &'static str, interface: &'static str) -> Scenario {
    Scenario::new(name)
        .limit(240)
        .disk(DISK)
        .vmm(
            Vmm::new("-v --memory 512M --stats=/run/stats.json --sandbox on")
                .by(interface)
                .cmdline("lab.act=reboot-once")
                .boots(2)
                .meanwhile(format!(
                    "{CONFINED}\n\
                     await 'L2: text' 90\n\
                     confined first\n\
                     report first\n\
                     await_second 'L2: text'\n\
                     confined second\n\
                     report second\n"
                )),
        )
        .each_run(|_, run| {
            confined(run, &["first", "second"])?;
            expect(run.guest("done").eq(["reboot", "poweroff"]), || {
                "the guest did not reboot and then power off".into()
            })
        })
}

/// A device that is added and removed, with `--stats`. A ROM that no flag has named is refused.
fn plugged(name: &'static str, interface: &'static str) -> Scenario {
    let bdf = DISK.bdf();
    Scenario::new(name)
        .limit(240)
        .disk(DISK)
        .vmm(
            Vmm::new(format!("{OPTIONS} --sandbox on --stats=/run/stats.json"))
                .by(interface)
                .devices("")
                .cmdline("lab.act=plug-1 lab.hurry=1")
                .meanwhile(format!(
                    "{FUNCTIONS}\n{CONFINED}\n\
                     await 'L2: listening' 90\n\
                     whole before\n\
                     head -c 512 /dev/zero >{ROM}\n\
                     ctl add {bdf},romfile={ROM}\n\
                     ctl add {bdf}\n\
                     await \"L2: plugged n=1 \" 60\n\
                     whole during\n\
                     confined during\n\
                     report during\n\
                     ctl remove {bdf}\n\
                     await \"L2: unplugged n=1 \" 60\n\
                     whole after\n\
                     confined after\n\
                     ctl add {bdf}\n"
                )),
        )
        .each_run(|_, run| {
            confined(run, &["during", "after"])?;
            rom_is_refused(run)?;
            is_whole(run)
        })
        .check(|outcome| outcome.transcript.runs().iter().try_for_each(ended_well))
}

fn confined(run: &Run<'_>, when: &[&str]) -> Result<()> {
    let said: Vec<_> = run.lab("confined").collect();
    let good = |when: &&str| {
        said.iter().any(|fact| {
            let threads = number(fact, "threads");
            fact.starts_with(&format!("{when} "))
                && number(fact, "loose") == Some(0)
                && threads.is_some_and(|threads| threads >= 3)
        })
    };
    expect(when.iter().all(good), || {
        format!("a thread is not confined: {said:?}")
    })
}

fn rom_is_refused(run: &Run<'_>) -> Result<()> {
    let says = format!("the sandbox does not let this run open the expansion ROM {ROM}");
    let said: Vec<_> = run.lab("ctl").collect();
    let first = said.first().copied().unwrap_or_default();
    let refused = !first.contains("status=0") && first.contains(&says) && first.contains("hint:");
    expect(refused, || format!("the ROM was not refused: {said:?}"))
}
