//! Peer-to-peer DMA: QEMU's teaching device moves bytes between the BARs of two other devices, by
//! each interface to the IOMMU, and again after all that revokes the export of a BAR.

use lab::Result;
use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{expect, used};
use lab::kernel::Choice;
use lab::scenario::Scenario;
use lab::transcript::Run;

/// The teaching device with all address lines, memory in a BAR, and an NVMe controller with memory
/// in a BAR. The controller has a function-level reset and a power state.
const DEVICES: [&str; 8] = [
    "-device",
    "edu,addr=b,dma_mask=0xffffffffffffffff",
    "-object",
    "memory-backend-ram,id=shared,size=1M,share=on",
    "-device",
    "ivshmem-plain,memdev=shared,addr=a",
    "-device",
    "nvme,serial=memory,cmb_size_mb=2,legacy-cmb=on,addr=c",
];

/// What the guest does before it moves bytes, in each of its two boots.
/// integration/resources/l2-acts.sh has the same.
const AFTER: [&str; 5] = ["boot", "decode-off", "d3", "flr", "reset"];

/// The guest's words that are moved each time.
const WORDS: u32 = 4;

pub fn all() -> Vec<Scenario> {
    vec![
        moves("bytes_between_bars_by_address")
            .vmm(vmm("container"))
            .degraded(&[&["no-reset"]])
            .each_run(|_, run| moved(run)),
        moves("bytes_between_bars_by_dma_buf")
            .kernel(Choice::LabNewest)
            .vmm(vmm("iommufd"))
            .vmm(vmm("container"))
            .degraded(&[&["no-reset"], &["no-reset"]])
            .each_run(|_, run| moved(run)),
        Scenario::new("nvme_by_each_interface_of_the_newest_lab_kernel")
            .kernel(Choice::LabNewest)
            .disk(Disk::new("lab-disk", 5))
            .by_each_interface(|_| Vmm::new("--memory 512M"))
            .vmm("-v --memory 512M --iommu auto")
            .check(|outcome| used(&lab::expect::run(outcome, 2)?, "iommufd")),
    ]
}

fn moves(name: &'static str) -> Scenario {
    ["0000:00:0b.0", "0000:00:0a.0", "0000:00:0c.0"]
        .into_iter()
        .fold(Scenario::new(name).qemu(&DEVICES), Scenario::function)
        .limit(240)
}

/// pci-stub takes the controller before the NVMe driver, which would use the controller's memory.
fn vmm(interface: &'static str) -> Vmm {
    Vmm::new("--memory 256M")
        .by(interface)
        .cmdline("lab.act=peers pci-stub.ids=1b36:0010")
        .boots(2)
}

fn moved(run: &Run<'_>) -> Result<()> {
    let seen: Vec<&str> = run.guest("moved").collect();
    let wanted: Vec<String> = (1..=2)
        .flat_map(|boot| AFTER.map(|after| (boot, after)))
        .flat_map(|(boot, after)| {
            let fact = move |way| format!("boot={boot} after={after} {way} words={WORDS}");
            ["into-the-controller", "out-of-the-controller"].map(fact)
        })
        .collect();
    expect(seen == wanted, || {
        format!("the guest moved {seen:#?} instead of {wanted:#?}")
    })?;
    let lost = run
        .messages()
        .any(|line| line.contains("[no-peer-to-peer]"));
    expect(!lost, || {
        "mini-vmm says that there is no peer-to-peer DMA".into()
    })
}
