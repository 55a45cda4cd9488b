//! mini-vmm-bench as a copied program on a machine without the repository: it measures a disk whose
//! speed is known, writes nothing to it, refuses what is in use, and leaves the device to the
//! host's driver however it ends.

use lab::scenario::Scenario;

/// The disk whose speed QEMU limits.
const SLOW: &str = "0000:00:06.0";

/// Its size.
const SIZE: u64 = 32 << 20;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_disk_of_known_speed_is_measured")
            .bench()
            .slow()
            .machine(|l1| l1.files = vec![("slow.img", noise())])
            .qemu(&[
                "-drive",
                "if=none,id=slow,format=raw,file={dir}/slow.img,throttling.iops-total=400",
                "-device",
                "nvme,drive=slow,serial=slow,addr=6",
            ])
            .script(known_speed(), |_| Ok(())),
    ]
}

/// What the disk has: no block is zero, and no two are alike.
fn noise() -> Vec<u8> {
    let words = (1..=SIZE / 8).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

fn known_speed() -> String {
    format!(
        "mini-vmm-bench {SLOW} --dry-run --guest-kernel bzImage --quick --rounds 2 || say failed $?\n\
         mini-vmm-bench {SLOW} --guest-kernel bzImage --guest-cmdline \"$cmdline\" --quick \
         --rounds 2 --measure 1 --memory 256M --output /run/report || say failed $?\n\
         say report $(cat /run/report.json)\n"
    )
}
