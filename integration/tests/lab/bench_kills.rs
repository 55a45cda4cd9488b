//! SIGKILL of mini-vmm-bench and of all processes below it, at ten moments of a turn of the host
//! and of a turn of mini-vmm: `host unbind` gives the device back, if it is not the host's.

use lab::disk::Disk;
use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Result, vmm};

const DISK: Disk = Disk::new("lab-disk", 5);

/// The moments: seconds after the start, in the host's turn; the moment at which its driver has
/// lost the device; seconds after vfio-pci has the device, in which the guest boots and works; the
/// moment at which vfio-pci has lost the device again.
const MOMENTS: &str = "0.1 1 2.5 taken bound+0 bound+0.5 bound+1.5 bound+2.5 bound+4 back";

/// The moments at which vfio-pci has the device for certain: a guest does not end so early.
const BOUND: [&str; 3] = ["bound+0", "bound+0.5", "bound+1.5"];

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_disk_goes_back_by_unbind_after_ten_kills")
            .built("mini-vmm-bench", vmm::bench)
            .apart()
            .limit(400)
            .disk(DISK)
            .script(script(), check),
    ]
}

fn script() -> String {
    let bdf = DISK.bdf();
    format!(
        "drivers >/run/drivers\n\
         all='mini-vmm-bench mini-vmm vmm-guardian vmm-binder vmm-call'\n\
         until_driver() {{\n\
         until [ \"$(driver_of {bdf})\" $1 $2 ]; do kill -0 $pid; sleep 0.02; done\n\
         }}\n\
         reach() {{\n\
         case $1 in\n\
         taken) until_driver != nvme ;;\n\
         bound+*) until_driver = vfio-pci; sleep ${{1#bound+}} ;;\n\
         back) until_driver = vfio-pci; until_driver != vfio-pci ;;\n\
         *) sleep $1 ;;\n\
         esac\n\
         }}\n\
         for moment in {MOMENTS}; do\n\
         disk_of {bdf} >/dev/null\n\
         mini-vmm-bench {bdf} --guest-kernel /boot/bzImage --guest-cmdline \"$cmdline\" \
         --memory 256M --quick --measure 1 --rounds 1 --output /run/report \
         >/run/out 2>&1 & pid=$!\n\
         reach $moment\n\
         kill -KILL $pid $(pidof $all | tr ' ' '\\n' | grep -vx $pid) || :\n\
         wait $pid || say killed $?\n\
         for _ in $(seq 100); do pidof $all >/dev/null || break; sleep 0.1; done\n\
         say left $moment $(pidof $all | wc -w) $(driver_of {bdf})\n\
         if [ \"$(driver_of {bdf})\" != nvme ]; then mini-vmm host unbind {bdf}; fi\n\
         await_driver {bdf} nvme\nstate $moment\ndone\n\
         say_back {bdf}\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let facts = |key: &'static str| outcome.transcript.lab(key).collect::<Vec<_>>();
    let moments: Vec<_> = MOMENTS.split(' ').collect();
    let killed = facts("killed");
    expect(killed == vec!["137"; moments.len()], || {
        format!("the bench ended with {killed:?}")
    })?;
    let left = facts("left");
    for (moment, left) in moments.iter().zip(&left) {
        let wanted = match BOUND.contains(moment) {
            true => format!("{moment} 0 vfio-pci"),
            false => format!("{moment} 0 "),
        };
        expect(left.starts_with(&wanted), || {
            format!("after SIGKILL: {left}")
        })?;
    }
    let states = facts("state");
    let wanted = moments.iter().map(|m| format!("{m} same records=0"));
    expect(states == wanted.collect::<Vec<_>>(), || {
        format!("L1's drivers were {states:?}")
    })?;
    DISK.check_untouched(&outcome.image(DISK.serial))
}
