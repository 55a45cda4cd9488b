//! mini-vmm-bench with a guest's kernel of Debian for all machines: the disk's driver and all that
//! it needs are modules packed with xz, which the guest gets unpacked.

use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, debian, vmm};

use crate::bench::{
    KNOWN, SLOW, SLOW_DISK, all_have_the_known_speed, noise, report, states, unchanged,
};

/// The device number of the disk with the kernel.
const DEBIAN: u8 = 7;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_measured_guest_loads_packed_modules")
            .built("mini-vmm-bench", vmm::bench)
            .machine(|l1| {
                l1.debian = Some((DEBIAN, debian::NEWEST_KERNEL));
                l1.files = vec![("slow.img", noise())];
                l1.memory = 2048;
            })
            .qemu(&SLOW_DISK)
            .limit(600)
            .apart()
            .script(script(), check),
    ]
}

/// The kernel is where a host has its own one, but for the root directory of its modules.
fn script() -> String {
    format!(
        "mkdir /mnt\nmount -t ext4 -o ro $(disk_of 0000:00:{DEBIAN:02x}.0) /mnt\n\
         release=$(ls /mnt/lib/modules)\nln -s /mnt/lib/modules /lib/modules\n\
         say release $release\n\
         cd /lib/modules/$release\n\
         say module $(find kernel -name 'nvme.ko*')\n\
         say needs $(sed -n 's,^kernel/drivers/nvme/host/nvme.ko[^:]*: ,,p' modules.dep)\n\
         say built-in $(grep -c /nvme modules.builtin || :)\n\
         drivers >/run/drivers\ncd /run\n\
         mini-vmm-bench {SLOW} --guest-kernel /mnt/boot/vmlinuz-$release \
         --guest-cmdline \"$cmdline\" --quick --rounds 1 --measure 1.5 --output report\n\
         state measured\nsay report $(cat report.json)\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    let fact = |key: &'static str| {
        let fact = outcome.transcript.lab(key).next();
        fact.ok_or_else(|| Error::failed(format!("L1 said nothing about {key}")))
    };
    let (release, module, needs) = (fact("release")?, fact("module")?, fact("needs")?);
    expect(module.ends_with("/nvme.ko.xz"), || {
        format!("the driver is {module:?}, not packed with xz")
    })?;
    let mut needed = needs.split_whitespace();
    expect(
        needed.clone().count() > 1 && needed.all(|file| file.ends_with(".ko.xz")),
        || format!("the driver needs {needs:?}"),
    )?;
    expect(fact("built-in")? == "0", || "the driver is built in".into())?;
    states(outcome, &["measured"])?;
    unchanged(outcome)?;
    let report = report(outcome)?;
    let kernel = &report["method"]["guest_kernel"];
    expect(kernel == release, || {
        format!("the guest's kernel was {kernel}, not {release}")
    })?;
    let subjects = report["subjects"].as_array().into_iter().flatten();
    let names: Vec<&str> = subjects.filter_map(|one| one["name"].as_str()).collect();
    expect(names == ["host", "mini-vmm", "mini-vmm again"], || {
        format!("the subjects are {names:?}")
    })?;
    all_have_the_known_speed(&report, KNOWN)
}
