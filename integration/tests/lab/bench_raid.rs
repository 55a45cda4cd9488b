//! mini-vmm-bench and a member of a RAID that mdadm has made: the disk is refused while the RAID
//! runs, is measured when it has been stopped, and is not written to even then.

use std::fs;

use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, debian, vmm};

use crate::bench::{SLOW, noise, states};

/// The second member.
const SECOND: &str = "0000:00:07.0";
/// The device number of the disk with mdadm.
const DEBIAN: u8 = 8;

/// Both members.
const DISKS: [&str; 8] = [
    "-drive",
    "if=none,id=first,format=raw,file={dir}/first.img",
    "-device",
    "nvme,drive=first,serial=S5H9NX0,addr=6",
    "-drive",
    "if=none,id=second,format=raw,file={dir}/second.img",
    "-device",
    "nvme,drive=second,serial=S5H9NX1,addr=7",
];

/// The superblock of version 1.2 is at this offset (Linux, include/uapi/linux/raid/md_p.h).
const SUPERBLOCK: usize = 4096;
const MAGIC: u32 = 0xa92b_4efc;

/// The RAID's data begin at this offset or before.
const DATA: usize = 4 << 20;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_member_of_a_raid_is_not_measured")
            .built("mini-vmm-bench", vmm::bench)
            .machine(|l1| {
                l1.debian = Some((DEBIAN, debian::RAID));
                l1.files = vec![("first.img", noise()), ("second.img", noise())];
            })
            .qemu(&DISKS)
            .limit(300)
            .apart()
            .script(script(), check),
    ]
}

/// The command that ends the use is taken from the hint, and typed as it stands there. Without
/// udev, mdadm does not wait for it.
fn script() -> String {
    let bench = format!(
        "mini-vmm-bench {SLOW} --guest-kernel /boot/bzImage --guest-cmdline \"$cmdline\" \
         --memory 256M --quick --measure 0.5 --rounds 1 --output /run/report"
    );
    format!(
        "mkdir /mnt\nmount -t ext4 $(disk_of 0000:00:{DEBIAN:02x}.0) /mnt\n\
         for folder in proc sys dev run; do mount -o rbind /$folder /mnt/$folder; done\n\
         export MDADM_NO_UDEV=1\n\
         first=$(disk_of {SLOW}) second=$(disk_of {SECOND})\ndrivers >/run/drivers\n\
         sum() {{ dd if=$first bs=1M iflag=direct 2>/dev/null | md5sum; }}\n\
         refuse() {{\n\
         name=$1 status=0\nshift\n\
         {bench} \"$@\" >/run/out 2>&1 || status=$?\n\
         say refused $name $status\n\
         say error $name $(sed -n 's/^mini-vmm-bench: //p' /run/out)\n\
         say hint $name $(sed -n 's/^hint: //p' /run/out)\n\
         }}\n\
         chroot /mnt /sbin/mdadm --create /dev/md7 --run --assume-clean --level 1 \
         --raid-devices 2 --metadata 1.2 $first $second 2>&1\n\
         say members $(ls /sys/block/md7/slaves | wc -l)\n\
         refuse member\n\
         hint=$(sed -n 's/^hint: as root: //p' /run/out)\n\
         refuse named --destroy S5H9NX0 --wipe\n\
         host bind {SLOW}\n\
         state refused\n\
         chroot /mnt /sbin/$hint 2>&1\nsay stopped $?\n\
         before=$(sum)\n\
         refuse signature --destroy S5H9NX0\n\
         status=0\n{bench} 2>&1 || status=$?\nsay measured $status\nstate measured\n\
         [ \"$(sum)\" = \"$before\" ] && say sum same\n\
         chroot /mnt /sbin/mdadm --assemble /dev/md7 $(disk_of {SLOW}) $second 2>&1\n\
         say assembled $(cat /sys/block/md7/md/degraded)\n\
         chroot /mnt /sbin/mdadm --stop /dev/md7 2>&1\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let lines = |key| outcome.transcript.lab(key).collect::<Vec<_>>();
    for (key, wanted) in [
        ("members", &["2"][..]),
        ("refused", &["member 1", "named 1", "signature 1"]),
        // `host bind`.
        ("host-exit", &["1"]),
        ("stopped", &["0"]),
        ("measured", &["0"]),
        ("sum", &["same"]),
        ("assembled", &["0"]),
    ] {
        let seen = lines(key);
        expect(seen == wanted, || format!("{key}: {seen:?}"))?;
    }
    states(outcome, &["refused", "measured"])?;
    let errors = lines("error");
    let in_use = |name| move |line: &&str| line.starts_with(name) && line.ends_with("of /dev/md7");
    expect(
        errors.iter().any(in_use("member"))
            && errors.iter().any(in_use("named"))
            && errors
                .get(2)
                .is_some_and(|line| line.contains("holds a member of a Linux RAID")),
        || format!("errors: {errors:?}"),
    )?;
    let hints = lines("hint");
    expect(
        hints.starts_with(&[
            "member as root: mdadm --stop /dev/md7",
            "named as root: mdadm --stop /dev/md7",
        ]),
        || format!("hints: {hints:?}"),
    )?;
    ["first", "second"].iter().try_for_each(|name| {
        let image = fs::read(outcome.image(name)).map_err(|e| Error::failed(e.to_string()))?;
        expect(
            image[SUPERBLOCK..SUPERBLOCK + 4] == MAGIC.to_le_bytes()
                && image[DATA..] == noise()[DATA..],
            || format!("the member {name} has changed"),
        )
    })
}
