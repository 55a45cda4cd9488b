//! However mini-vmm-bench ends in a turn of another VMM, and if that VMM hangs: the VMM ends in
//! bounded time, and `host unbind` gives the device back, if nothing else does.

use lab::disk::Disk;
use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Result, vmm};

const DISK: Disk = Disk::new("lab-disk", 5);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_disk_measured_by_qemu_goes_back_however_it_ends")
            .built("mini-vmm-bench", vmm::bench)
            .apart()
            .inner_qemu()
            .limit(300)
            .disk(DISK)
            .script(script(), check),
    ]
}

/// SIGKILL while QEMU has the device, and while QEMU has a disk by the host's driver; then SIGINT
/// when QEMU is stopped, so that only SIGKILL ends it.
fn script() -> String {
    let bdf = DISK.bdf();
    let bench = format!(
        "mini-vmm-bench {bdf} --guest-kernel /boot/bzImage --guest-cmdline \"$cmdline\" \
         --memory 256M --quick --measure 1 --rounds 1 --output /run/report"
    );
    format!(
        "drivers >/run/drivers\n\
         qemu=qemu-system-x86_64\n\
         begin() {{\n\
         {bench} --peer $1 >/run/out 2>&1 & pid=$!\n\
         for _ in $(seq 600); do grep -q 'round 1, QEMU' /run/out && break; sleep 0.1; done\n\
         for _ in $(seq 100); do pidof $qemu >/dev/null && break; sleep 0.1; done\n\
         say $1 $(pidof $qemu | wc -w) $(driver_of {bdf})\n\
         }}\n\
         gone() {{\n\
         for _ in $(seq 100); do pidof $qemu >/dev/null || break; sleep 0.1; done\n\
         say $1 $(pidof $qemu | wc -w) $(driver_of {bdf})\n\
         }}\n\
         begin qemu-vfio\nkill -KILL $pid\nwait $pid || say status $?\ngone killed\n\
         mini-vmm host unbind {bdf}\nawait_driver {bdf} nvme\nstate vfio-killed\n\
         begin qemu-virtio\nkill -KILL $pid\nwait $pid || say status $?\ngone killed\n\
         state virtio-killed\n\
         begin qemu-vfio\nkill -STOP $(pidof $qemu)\nkill -INT $pid\n\
         wait $pid || say status $?\ngone interrupted\nstate stopped\n\
         say_back {bdf}\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    for (key, wanted) in [
        ("qemu-vfio", &["1 vfio-pci"; 2][..]),
        ("qemu-virtio", &["1 nvme"]),
        ("killed", &["0 vfio-pci", "0 nvme"]),
        ("interrupted", &["0 nvme"]),
        ("status", &["137", "137", "130"]),
        (
            "state",
            &[
                "vfio-killed same records=0",
                "virtio-killed same records=0",
                "stopped same records=0",
            ],
        ),
    ] {
        let found: Vec<_> = outcome.transcript.lab(key).collect();
        expect(found == wanted, || format!("{key}: {found:?}"))?;
    }
    DISK.check_untouched(&outcome.image(DISK.serial))
}
