//! What a guest's RAM is made of, and how its vCPUs idle, with a disk whose DMA must find that RAM.

use std::time::Duration;

use lab::disk::Disk;
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::number;

use lab::expect::{back_with_guest_text, ended_well, exit, expect, run, worked};

const LIMIT: Duration = Duration::from_secs(180);

/// Pages of 2 MiB that L1 sets aside: those of the guest, and a few more.
const RESERVED: u64 = 264;
const USED: u64 = 256;

pub fn all() -> Vec<Scenario> {
    vec![huge_pages(), idle_native()]
}

fn scenario(
    name: &'static str,
    disk: &Disk,
    script: &str,
    check: lab::scenario::Check,
) -> Scenario {
    let bdf = disk.bdf();
    Scenario {
        name,
        machine: Machine::with_disks(std::slice::from_ref(disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!("bind_vfio {bdf}\n{script}give_back {bdf}\n"),
        limit: LIMIT,
        check,
    }
}

/// From L1's reserve, private and shared; what was taken is given back, and what is not there is named.
fn huge_pages() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let flags = format!(
        "--kernel bzImage --initrd initrd --cmdline 'quiet panic=-1' --vfio {bdf} --memory"
    );
    let mut script = format!(
        "free() {{ say \"huge $1 free=$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages)\"; }}\n\
         echo {RESERVED} >/proc/sys/vm/nr_hugepages\nfree first\n"
    );
    for shared in ["off", "on"] {
        script.push_str(&format!(
            "start_vmm {flags} 512M,hugepages=2M,shared={shared}\n\
             await 'L2: init' 90\nfree during\nwait_vmm\nfree after\n"
        ));
    }
    script.push_str(&format!("run_vmm {flags} 1G,hugepages=2M\n"));
    scenario(
        "ram_of_huge_pages",
        &disk.clone(),
        &script,
        Box::new(move |outcome| {
            let free: Vec<_> = outcome
                .transcript
                .lab("huge")
                .map(|fact| number(fact, "free"))
                .collect();
            let (all, rest) = (Some(RESERVED), Some(RESERVED - USED));
            expect(free == [all, rest, all, rest, all], || {
                format!("L1's free huge pages were {free:?}, of {RESERVED}")
            })?;
            for index in [0, 1] {
                let run = run(outcome, index)?;
                ended_well(&run)?;
                worked(outcome, &run, &disk)?;
            }
            let refused = run(outcome, 2)?;
            exit(&refused, 1)?;
            let said: Vec<_> = refused.messages().collect();
            let wanted = [
                format!(
                    "takes 512 huge pages of 2 MiB; this host has {RESERVED}, and {RESERVED} of them are free"
                ),
                "hint: as root: echo 512 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
                    .into(),
            ];
            expect(
                said.len() == 2 && said.iter().zip(&wanted).all(|(s, w)| s.contains(w)),
                || format!("a guest of too many huge pages was refused with {said:?}"),
            )?;
            back_with_guest_text(outcome, &disk)
        }),
    )
}

/// HLT runs in the guest, which still hears its timers and its disk. A vCPU has a CPU of L1's.
fn idle_native() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let script = format!(
        "run_vmm -v --kernel bzImage --initrd initrd --memory 512M --cpus 1,idle=native,pin=0 \
         --cmdline 'quiet panic=-1' --vfio {}\n",
        disk.bdf()
    );
    scenario(
        "vcpus_that_idle_in_the_guest",
        &disk.clone(),
        &script,
        Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            worked(outcome, &run, &disk)?;
            let said = run
                .messages()
                .any(|line| line.contains("HLT") && line.contains("in the guest"));
            expect(said, || {
                "mini-vmm did not say that HLT runs in the guest".into()
            })?;
            back_with_guest_text(outcome, &disk)
        }),
    )
}
