//! A guest that uses XSAVE and AVX: the registers survive the switches of threads, the vCPU's exits
//! and a reboot. The other scenarios' guests have no XSAVE (integration/src/newer_qemu.rs).

use lab::Result;
use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{expect, guest};
use lab::kernel::Choice;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

const DISK: Disk = Disk::new("lab-disk", 5);

/// Boots of the guest in a run.
const BOOTS: usize = 2;
/// Threads that keep values in AVX registers, twice as many as the guest has vCPUs.
const THREADS: u64 = 4;
/// Exits to mini-vmm that each thread makes (integration/src/bin/guest/vectors.rs).
const EXITS: u64 = 40;

pub fn all() -> Vec<Scenario> {
    vec![
        with_xsave("xsave_and_avx", Choice::Lab),
        with_xsave("xsave_and_avx_newest_kernel", Choice::LabNewest),
    ]
}

fn with_xsave(name: &'static str, kernel: Choice) -> Scenario {
    Scenario::new(name)
        .kernel(kernel)
        .machine(|l1| l1.xsave = true)
        .disk(DISK)
        .vmm(
            Vmm::new("--cpus 2 --memory 512M")
                .cmdline("lab.act=work-twice")
                .boots(BOOTS),
        )
        .each_run(|_, run| kept(run))
}

/// In each boot, the kernel uses XSAVE, and no thread lost its registers.
fn kept(run: &Run<'_>) -> Result<()> {
    guest(run, "vectors")?;
    let vectors: Vec<_> = run.guest("vectors").collect();
    let whole = |fact: &&str| {
        ["threads", "wrong", "exits"].map(|name| number(fact, name))
            == [Some(THREADS), Some(0), Some(THREADS * EXITS)]
    };
    expect(vectors.len() == BOOTS && vectors.iter().all(whole), || {
        format!("threads lost the values of their AVX registers: {vectors:?}")
    })?;
    for flags in run.guest("flags") {
        let flags: Vec<_> = flags.split(' ').collect();
        for flag in ["xsave", "xsaveopt", "xgetbv1", "avx", "avx2", "fma", "pku"] {
            expect(flags.contains(&flag), || {
                format!("the guest's /proc/cpuinfo lacks {flag}: {flags:?}")
            })?;
        }
    }
    Ok(())
}
