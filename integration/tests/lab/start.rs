//! A guest's RAM of huge pages, and vCPUs that idle in the guest. The disk's DMA must reach the
//! huge pages.

use lab::Result;
use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

/// The number of 2 MiB pages that L1 reserves: the pages of a guest with 512 MiB, and a few more.
const RESERVED: u64 = 264;
const USED: u64 = 256;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("ram_of_huge_pages")
            .limit(180)
            .disk(Disk::new("lab-disk", 5))
            .before(reserve())
            .vmm(free_meanwhile("off"))
            .l1("free after")
            .vmm(free_meanwhile("on"))
            .l1("free after")
            .vmm(Vmm::new("--memory 1G,hugepages=2M").exits(1))
            .check(huge_pages),
        Scenario::new("vcpus_that_idle_in_the_guest")
            .limit(180)
            .disk(Disk::new("lab-disk", 5))
            .vmm("-v --memory 512M --cpus 1,idle=native,pin=0")
            .each_run(|_, run| idle(run)),
    ]
}

fn reserve() -> String {
    let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    format!(
        "free() {{ say \"huge $1 free=$(cat {free})\"; }}\n\
         echo {RESERVED} >/proc/sys/vm/nr_hugepages\nfree first\n"
    )
}

fn free_meanwhile(shared: &str) -> Vmm {
    Vmm::new(format!("--memory 512M,hugepages=2M,shared={shared}"))
        .meanwhile("await 'L2: init' 90\nfree during")
}

/// mini-vmm takes the guest's pages from L1's reserve and gives them back. A guest that needs more
/// pages than there are is refused with a hint.
fn huge_pages(outcome: &Outcome) -> Result<()> {
    let free: Vec<_> = outcome
        .transcript
        .lab("huge")
        .map(|fact| number(fact, "free"))
        .collect();
    let (all, rest) = (Some(RESERVED), Some(RESERVED - USED));
    expect(free == [all, rest, all, rest, all], || {
        format!("L1's free huge pages were {free:?}, of {RESERVED}")
    })?;
    let refused = run(outcome, 2)?;
    let said: Vec<_> = refused.messages().collect();
    let wanted = [
        format!(
            "takes 512 huge pages of 2 MiB; this host has {RESERVED}, and {RESERVED} of them are \
             free"
        ),
        "hint: as root: echo 512 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages".into(),
    ];
    expect(
        said.len() == 2 && said.iter().zip(&wanted).all(|(s, w)| s.contains(w)),
        || format!("mini-vmm refused a guest of too many huge pages with {said:?}"),
    )
}

/// HLT does not leave the guest, which still gets the interrupts of its timers and its disk.
fn idle(run: &Run<'_>) -> Result<()> {
    let said = run
        .messages()
        .any(|line| line.contains("HLT") && line.contains("in the guest"));
    expect(said, || {
        "mini-vmm did not say that HLT runs in the guest".into()
    })
}
