//! mini-vmm-bench writes to a disk only if the disk is named by its own serial number and holds
//! nothing, and finds again what each subject has written.

use std::fs;

use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};
use serde_json::Value;

/// The disk.
const DISK: &str = "0000:00:06.0";

/// Its size.
const SIZE: usize = 32 << 20;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_disk_is_written_to_only_when_it_is_named")
            .built("mini-vmm-bench", vmm::bench)
            .apart()
            .inner_qemu()
            .limit(300)
            .machine(|l1| {
                let other = vec![2; SIZE];
                l1.files = vec![("plain.img", vec![1; SIZE]), ("other.img", other)];
            })
            .qemu(&[
                "-drive",
                "if=none,id=plain,format=raw,file={dir}/plain.img",
                "-device",
                "nvme,drive=plain,serial=S5H9NX0,addr=6",
                "-drive",
                "if=none,id=other,format=raw,file={dir}/other.img",
                "-device",
                "nvme,drive=other,serial=S5H9NX1,addr=7",
            ])
            .script(script(), check),
    ]
}

/// Six refusals, each with its exit status, what was said, and whether the disk is the same; then
/// writes by the host, by mini-vmm and by QEMU.
fn script() -> String {
    let bench = format!(
        "mini-vmm-bench {DISK} --guest-kernel /boot/bzImage --guest-cmdline \"$cmdline\" \
         --memory 256M --quick --measure 0.5 --rounds 1 --output /run/report"
    );
    format!(
        "disk=$(disk_of {DISK})\n\
         sum() {{ dd if=$disk bs=1M iflag=direct 2>/dev/null | md5sum; }}\n\
         refuse() {{\n\
         name=$1 wanted=$2\nshift 2\nbefore=$(sum) status=0\n\
         {bench} \"$@\" >/run/out 2>&1 || status=$?\n\
         [ \"$(sum)\" = \"$before\" ] && same=same || same=changed\n\
         say refused $name $status $(grep -c \"$wanted\" /run/out) $same\n\
         }}\n\
         refuse other-disk 'not \"S5H9NX1\"' --destroy S5H9NX1 --wipe\n\
         refuse other-serial 'not \"S5H9NX\"' --destroy S5H9NX --wipe\n\
         printf '\\374N+\\251' | dd of=$disk bs=1 seek=4096 2>/dev/null\n\
         refuse raid-member 'holds a member of a Linux RAID' --destroy S5H9NX0\n\
         mke2fs $disk >/dev/null\nmkdir -p /mnt\nmount -t ext4 $disk /mnt\n\
         refuse mounted 'mounted at /mnt' --destroy S5H9NX0 --wipe\n\
         umount /mnt\nsync\n\
         refuse file-system 'holds an ext2, ext3 or ext4' --destroy S5H9NX0\n\
         refuse wipe-alone 'required arguments' --wipe\n\
         head() {{ dd if=$disk bs=1M count=8 iflag=direct 2>/dev/null; }}\n\
         head >/run/before\n\
         {bench} --destroy S5H9NX0 --wipe --peer qemu-virtio >/run/out 2>&1\n\
         head >/run/after\n\
         say erased $(cmp -l /run/before /run/after | wc -l) $(grep -c ERASED /run/out)\n\
         say last $(dd if=$disk bs=1M skip=31 iflag=direct 2>/dev/null | tr -d '\\001' | wc -c)\n\
         say report $(cat /run/report.json)\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let other = fs::read(outcome.image("other")).map_err(|e| Error::failed(e.to_string()))?;
    expect(other.iter().all(|byte| *byte == 2), || {
        "the other disk has changed".into()
    })?;
    let lines = |key| outcome.transcript.lab(key).collect::<Vec<_>>();
    let refused = lines("refused");
    let wanted = [
        "other-disk 1 1 same",
        "other-serial 1 1 same",
        "raid-member 1 1 same",
        "mounted 1 1 same",
        "file-system 1 1 same",
        "wipe-alone 2 1 same",
    ];
    expect(refused == wanted, || format!("refused: {refused:?}"))?;
    // Two bytes of the file system are its signature; nothing else before 8 MiB has changed.
    let erased = lines("erased");
    expect(erased == ["2 1"], || format!("erased: {erased:?}"))?;
    let last = lines("last");
    expect(last == ["0"], || format!("the last MiB: {last:?}"))?;
    let report = lines("report").concat();
    let report: Value =
        serde_json::from_str(&report).map_err(|e| Error::failed(format!("the report: {e}")))?;
    let turns = report["rounds"][0].as_array().cloned().unwrap_or_default();
    expect(turns.len() == 4, || format!("{} turns", turns.len()))?;
    for trial in turns {
        for work in ["read-4k-d1", "write-4k-d1", "mixed-4k-d32"] {
            let samples = trial["samples"].as_array().into_iter().flatten();
            let done = samples
                .filter(|sample| sample["work"] == work)
                .filter_map(|sample| sample["operations"].as_u64())
                .sum::<u64>();
            expect(done > 0, || format!("no {work} in {trial}"))?;
        }
        let left = trial["left_sha256"].as_str();
        expect(left.is_some_and(|left| left.len() == 64), || {
            format!("the turn left {left:?}")
        })?;
    }
    Ok(())
}
