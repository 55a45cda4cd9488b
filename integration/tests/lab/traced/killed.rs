//! SIGKILL of the tracer at five moments: no guest is left half alive, and the device is back, or
//! `host unbind` brings it back.

use lab::Result;
use lab::disk::Disk;
use lab::expect::{ended_well, expect, run, worked};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::vmm;

const DISK: Disk = Disk::new("lab-disk", 5);

/// When the tracer is killed: a condition of L1's shell.
const MOMENTS: [(&str, &str); 5] = [
    ("at-the-start", "[ -e /run/trace ]"),
    ("at-the-vm", "grep -qs KVM_CREATE_VM /run/trace"),
    ("at-the-device", "grep -qs 'device 0000:00:05.0' /run/trace"),
    ("in-the-guest", "grep -qs 'L2: init' /run/vmm.console"),
    ("at-the-disk", "grep -qs 'L2: disk' /run/vmm.console"),
];

const FUNCTIONS: &str = "\
# traced MANAGED MOMENT CONDITION: kills the tracer of a guest when the condition holds, and waits
# until the kernel has let go of all that the guest had.
traced() {
	rm -f /run/trace
	start_as '' mini-vmm-trace -o /run/trace -- mini-vmm $boot --memory 256M \
		--cmdline \"$cmdline\" --vfio \"0000:00:05.0$1\"
	for _ in $(seq 1200); do
		eval \"$3\" && break
		sleep 0.05
	done
	eval \"$3\" || say \"await-failed $2\"
	kill -9 $vmm_pid
	wait_vmm
	for _ in $(seq 200); do
		alive=$(ls -l /proc/[0-9]*/exe 2>/dev/null | grep -c /mini-vmm || :)
		in_use \"$2$1\" >/run/in-use
		[ \"$alive\" = 0 ] && grep -q 'pinned=0 open=0' /run/in-use && break
		sleep 0.1
	done
	say \"alive $2$1 $alive\"
	cat /run/in-use
	if [ -n \"$1\" ]; then
		[ \"$(driver_of 0000:00:05.0)\" = nvme ] || host unbind 0000:00:05.0
		await_driver 0000:00:05.0 nvme
		say \"returned $(driver_of 0000:00:05.0)\" \
			\"$(dd if=$(disk_of 0000:00:05.0) bs=4k count=1 2>/dev/null | wc -c)\"
	fi
}
";

pub fn scenario() -> Scenario {
    let mut script = String::from(FUNCTIONS);
    for (moment, condition) in MOMENTS {
        script += &format!("traced ,managed=on {moment} \"{condition}\"\n");
    }
    script += "bind_vfio 0000:00:05.0\n";
    for (moment, condition) in MOMENTS {
        script += &format!("traced '' {moment} \"{condition}\"\n");
    }
    script += "run_vmm $boot --memory 256M --cmdline \"$cmdline\" --vfio 0000:00:05.0\n\
               give_back 0000:00:05.0\n";
    Scenario::new("a_tracer_that_is_killed_leaves_no_guest")
        .built("mini-vmm-trace", vmm::tracer)
        .disk(DISK)
        .limit(400)
        .apart()
        .script(script, check)
}

fn check(outcome: &Outcome) -> Result<()> {
    for index in 0..2 * MOMENTS.len() {
        let status = run(outcome, index)?.exit();
        // 128 and SIGKILL.
        expect(status == Some(137), || {
            format!("a tracer ended with {status:?}")
        })?;
    }
    let alive: Vec<_> = outcome.transcript.lab("alive").collect();
    expect(alive.len() == 2 * MOMENTS.len(), || format!("{alive:?}"))?;
    for left in alive {
        expect(left.ends_with(" 0"), || {
            format!("processes are left: {left}")
        })?;
    }
    let in_use: Vec<_> = outcome.transcript.lab("in-use").collect();
    expect(in_use.len() == 2 * MOMENTS.len(), || format!("{in_use:?}"))?;
    for left in in_use {
        expect(left.ends_with("pinned=0 open=0"), || {
            format!("in use: {left}")
        })?;
    }
    for status in outcome.transcript.lab("host-exit") {
        expect(status == "0", || format!("host unbind ended with {status}"))?;
    }
    let returned: Vec<_> = outcome.transcript.lab("returned").collect();
    expect(returned == ["nvme 4096"; MOMENTS.len()], || {
        format!("the device came back as {returned:?}")
    })?;
    let last = run(outcome, 2 * MOMENTS.len())?;
    ended_well(&last)?;
    worked(outcome, &last, &DISK)
}
