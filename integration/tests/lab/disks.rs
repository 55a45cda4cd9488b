//! A guest that reads and writes passed-through NVMe disks: kernels of both forms, one and several
//! vCPUs, RAM on both sides of the 32-bit hole, two disks in two groups, and the cost of a read.

use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{expect, guest, run, used};
use lab::kernel::{Choice, KernelFile};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};
use lab::{Error, Result};
use serde_json::Value;

/// Reads that the guest makes between its two marks.
const MEASURED_READS: u64 = 20480;
/// Entries in the MSI-X table of QEMU's NVMe controller.
const NVME_VECTORS: u64 = 65;

const DISK: Disk = Disk::new("lab-disk", 5);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("nvme_stock_kernel")
            .kernel(Choice::Stock)
            .disk(DISK)
            .vmm("-v --memory 512M")
            .each_run(|_, run| fell_back(run)),
        Scenario::new("nvme_newest_kernel")
            .kernel(Choice::Newest)
            .disk(DISK)
            .vmm("-v --memory 512M")
            .each_run(|_, run| fell_back(run)),
        Scenario::new("nvme_elf_vmlinux")
            .kernel(Choice::Stock)
            .kernel_file(KernelFile::Vmlinux)
            .disk(DISK)
            .vmm("-v --memory 512M")
            .each_run(|_, run| fell_back(run)),
        Scenario::new("nvme_elf_vmlinux_newest_kernel")
            .kernel(Choice::Newest)
            .kernel_file(KernelFile::Vmlinux)
            .disk(DISK)
            .vmm("-v --memory 512M")
            .each_run(|_, run| fell_back(run)),
        Scenario::new("nvme_by_container_by_iommufd_and_by_auto")
            .disk(DISK)
            .by_each_interface(|_| Vmm::new("--memory 512M"))
            .vmm("-v --memory 512M --iommu auto")
            .check(|outcome| used(&run(outcome, 2)?, "iommufd")),
        Scenario::new("four_vcpus_and_ram_on_both_sides_of_the_hole")
            .kernel(Choice::Stock)
            .machine(|l1| l1.memory = 6144)
            .disk(DISK.buffered(32))
            .vmm(Vmm::new("--cpus 4 --memory 4G").cmdline("lab.buffered=32"))
            .each_run(|_, run| four_cpus_four_gib(run)),
        Scenario::new("two_disks_in_two_groups")
            .disk(Disk::new("first-disk", 5))
            .disk(Disk::new("second-disk", 6))
            .by_each_interface(|_| Vmm::new("--cpus 2"))
            // This kernel's iommufd cannot map BARs.
            .degraded(&[&[], &["no-peer-to-peer"]])
            .check(two_groups),
        Scenario::new("no_userspace_exit_per_read")
            .kernel(Choice::Stock)
            .disk(DISK)
            .vmm(measured())
            .l1("cp /run/stats.json /run/stats.last\nsay_reports first second last")
            .check(cost),
    ]
}

/// Debian's kernels have no iommufd, and mini-vmm says once that `auto` uses the container.
fn fell_back(run: &Run<'_>) -> Result<()> {
    let said = run
        .messages()
        .filter(|line| line.contains("by group and container: "))
        .count();
    expect(said == 1, || {
        format!("{said} lines, not one, say why iommufd is not used")
    })
}

fn four_cpus_four_gib(run: &Run<'_>) -> Result<()> {
    let cpus = guest(run, "cpus")?;
    expect(cpus == "4", || format!("the guest has {cpus} CPUs, not 4"))?;
    let memory = guest(run, "memory")?;
    let kib: u64 = memory.trim_end_matches(" KiB").parse().unwrap_or(0);
    // MemTotal leaves out what the kernel reserves.
    expect((3900 << 10..=4 << 20).contains(&kib), || {
        format!("the guest has {memory} of its 4 GiB")
    })?;
    // Linux allocates the page cache from the zone above 4 GiB first, so the disk's DMA goes there.
    let fact = guest(run, "high-pages")?;
    let [before, after, of] = ["before", "after", "of"].map(|name| number(fact, name).unwrap_or(0));
    expect(of > 0 && after >= before + of / 2, || {
        format!("too little of what the disk wrote to memory lies above 4 GiB: {fact}")
    })
}

fn two_groups(outcome: &Outcome) -> Result<()> {
    let groups: Vec<_> = outcome
        .transcript
        .lab("bound")
        .filter_map(|fact| number(fact, "group"))
        .collect();
    expect(groups.len() == 2 && groups[0] != groups[1], || {
        format!("the two disks are not in two groups: {groups:?}")
    })
}

/// mini-vmm writes its statistics before and after many reads, and at its end. After each mark the
/// guest prints nothing for a second, and the script sends the requests in that second.
fn measured() -> Vmm {
    Vmm::new("--memory 512M --stats=/run/stats.json")
        .cmdline("lab.act=measure")
        .meanwhile("await M1 90\nreport first\nawait M2 90\nreport second")
}

fn cost(outcome: &Outcome) -> Result<()> {
    let run = run(outcome, 0)?;
    let lines = run
        .messages()
        .filter(|line| line.starts_with("mini-vmm: exits pio="));
    expect(lines.count() == 2, || {
        "mini-vmm did not print its counts of exits on each SIGUSR1".into()
    })?;
    let [first, second, last] = ["first", "second", "last"].map(|name| stats(&run, name));
    let (first, second, last) = (first?, second?, last?);
    cost_of_a_read(&first, &second)?;
    whole_run(&last)?;
    // At the end, the guest's driver has turned its interrupts off.
    expect(messages(&last) >= messages(&second), || {
        "interrupts were forgotten when the guest turned them off".into()
    })
}

/// The statistics that L1 printed under this name.
pub fn stats(run: &Run<'_>, name: &str) -> Result<Value> {
    let text = run
        .lab("stats")
        .find_map(|fact| fact.strip_prefix(name)?.strip_prefix(' '));
    let text = text.ok_or_else(|| Error::failed(format!("no statistics {name}")))?;
    serde_json::from_str(text)
        .map_err(|e| Error::failed(format!("the statistics {name} are no JSON: {e}")))
}

/// A number in the statistics.
fn figure(stats: &Value, path: &str) -> Result<u64> {
    let value = stats.pointer(path).and_then(Value::as_u64);
    value.ok_or_else(|| Error::failed(format!("the statistics have no {path}")))
}

/// Interrupts of all MSI-X vectors.
fn messages(stats: &Value) -> u64 {
    let vectors = stats["interrupts"].as_array().into_iter().flatten();
    let vectors = vectors.filter(|vector| vector["kind"] == "msix");
    vectors.filter_map(|v| v["interrupts"].as_u64()).sum()
}

#[expect(clippy::cast_precision_loss, reason = "all counts are far below 2^52")]
fn cost_of_a_read(first: &Value, second: &Value) -> Result<()> {
    let grown = |path| -> Result<u64> {
        let (before, after) = (figure(first, path)?, figure(second, path)?);
        after
            .checked_sub(before)
            .ok_or_else(|| Error::failed(format!("{path} went down")))
    };
    let each = |count: u64| count as f64 / MEASURED_READS as f64;
    let exits = grown("/exits/total")?;
    let in_kvm = grown("/kvm/vcpus/0/exits")?;
    let halts = grown("/kvm/vcpus/0/halt_exits")?;
    let interrupts = messages(second).saturating_sub(messages(first));
    eprintln!(
        "  {MEASURED_READS} reads of 4 KiB; for each {:.4} exits to userspace, {:.3} to KVM \
         ({:.3} halts), {:.3} interrupts",
        each(exits),
        each(in_kvm),
        each(halts),
        each(interrupts),
    );
    expect(exits > 0 && each(exits) < 0.01, || {
        format!("{exits} userspace exits for {MEASURED_READS} reads")
    })?;
    // The guest reads one block at a time: each read costs an interrupt and an exit to KVM.
    expect(interrupts >= MEASURED_READS, || {
        format!("{interrupts} interrupts for {MEASURED_READS} reads")
    })?;
    expect(in_kvm > exits, || {
        format!("KVM counts {in_kvm} exits, and mini-vmm {exits}")
    })
}

/// Checks the statistics of any run with this disk and 512 MiB.
fn whole_run(stats: &Value) -> Result<()> {
    phases(stats)?;
    let mapped = figure(stats, "/dma/ram/bytes")?;
    expect(mapped == 512 << 20, || {
        format!("{mapped} bytes are mapped for DMA, not 512 MiB")
    })?;
    let present = figure(stats, "/memory/guest_resident_bytes")?;
    expect(present == 512 << 20, || {
        format!("{present} bytes of the guest are present, not 512 MiB")
    })?;
    let private = figure(stats, "/memory/private_bytes")?;
    eprintln!("  {} KiB are mini-vmm's own", private >> 10);
    // The driver writes the MSI-X table, which is in BAR 0, once for each vector that it uses. The
    // kernel also masks all vectors twice. KVM coalesces these writes, except for the first
    // vector's.
    let registers = stats["exits"]["registers"].as_array().cloned();
    let table = registers.unwrap_or_default().into_iter();
    let table = table.filter(|register| {
        let name = register["place"].as_str().unwrap_or_default();
        register["space"] == "memory" && register["write"] == true && name.ends_with("BAR 0")
    });
    let writes: u64 = table
        .filter_map(|register| register["count"].as_u64())
        .sum();
    eprintln!("  {writes} writes to the MSI-X table were exits");
    expect((1..NVME_VECTORS).contains(&writes), || {
        format!("{writes} exits are writes to the MSI-X table")
    })
}

/// Expects all phases of the start.
fn phases(stats: &Value) -> Result<()> {
    let phases = stats["phases"].as_array().cloned().unwrap_or_default();
    let named = |name: &str| {
        phases
            .iter()
            .find(|phase| phase["name"] == name)
            .ok_or_else(|| Error::failed(format!("the start has no phase {name}")))
    };
    for name in [
        "create_vm",
        "open_device",
        "populate_ram",
        "map_dma",
        "load_images",
        "first_run",
    ] {
        let phase = named(name)?;
        let took = figure(phase, "/end_us")? - figure(phase, "/start_us")?;
        eprintln!("  {name}: {took} us, from {} us on", phase["start_us"]);
    }
    let opened = &named("open_device")?["device"];
    expect(opened == &DISK.bdf(), || format!("{opened} was opened"))
}
