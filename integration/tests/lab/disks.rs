//! A guest that reads and writes passed-through NVMe disks: kernels of both forms, one and several
//! vCPUs, RAM on both sides of the 32-bit hole, two disks in two groups, and the cost of an I/O.

use std::time::Duration;

use lab::disk::Disk;
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::{Run, number};
use lab::{Error, Result};
use serde_json::Value;

use lab::expect::{back_with_guest_text, ended_well, exit, expect, guest, run, worked};

use crate::both;

const LIMIT: Duration = Duration::from_secs(150);

/// Reads that the guest makes between its two marks.
const MEASURED_READS: u64 = 20480;
/// Entries in the MSI-X table of QEMU's NVMe controller.
const NVME_VECTORS: u64 = 65;

pub fn all() -> Vec<Scenario> {
    vec![
        one_disk("nvme_stock_kernel", Choice::Stock, Image::BzImage),
        one_disk("nvme_newest_kernel", Choice::Newest, Image::BzImage),
        one_disk("nvme_elf_vmlinux", Choice::Stock, Image::Vmlinux),
        one_disk(
            "nvme_elf_vmlinux_newest_kernel",
            Choice::Newest,
            Image::Vmlinux,
        ),
        by_each_interface(),
        four_cpus_four_gib(),
        two_disks(),
        exits_per_read(),
    ]
}

fn one_disk(name: &'static str, kernel: Choice, image: Image) -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let file = match image {
        Image::BzImage => "bzImage",
        Image::Vmlinux => "vmlinux",
    };
    Scenario {
        name,
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel,
        image,
        script: format!(
            "bind_vfio {bdf}\n\
             run_vmm -v --kernel {file} --initrd initrd --memory 512M \
             --cmdline 'quiet panic=-1' --vfio {bdf}\n\
             give_back {bdf}\n"
        ),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            exit(&run, 0)?;
            worked(outcome, &run, &disk)?;
            fell_back(&run)?;
            back_with_guest_text(outcome, &disk)
        }),
    }
}

/// Debian's kernels have no iommufd, and `auto` says so once.
fn fell_back(run: &Run<'_>) -> Result<()> {
    let said = run
        .messages()
        .filter(|line| line.contains("by group and container: "))
        .count();
    expect(said == 1, || {
        format!("{said} lines, not one, say why it is not by iommufd")
    })
}

/// The same by both interfaces to the IOMMU, one after the other, and by that which `auto` takes.
fn by_each_interface() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let mut script = format!("bind_vfio {bdf}\n");
    for iommu in ["container", "iommufd", "auto"] {
        script.push_str(&format!(
            "run_vmm -v --kernel bzImage --initrd initrd --memory 512M --iommu {iommu} \
             --cmdline 'quiet panic=-1' --vfio {bdf}\n"
        ));
    }
    script.push_str(&format!("give_back {bdf}\n"));
    Scenario {
        name: "nvme_by_container_by_iommufd_and_by_auto",
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script,
        limit: LIMIT,
        check: Box::new(move |outcome| {
            for (index, iommufd) in [(0, false), (1, true), (2, true)] {
                let run = run(outcome, index)?;
                ended_well(&run)?;
                worked(outcome, &run, &disk)?;
                let said = run.messages().any(|line| line.contains("by iommufd"));
                expect(said == iommufd, || {
                    format!(
                        "\"{}\" {} iommufd",
                        run.command(),
                        if said { "took" } else { "did not take" }
                    )
                })?;
            }
            back_with_guest_text(outcome, &disk)
        }),
    }
}

fn four_cpus_four_gib() -> Scenario {
    let disk = Disk {
        buffered: 32,
        ..Disk::new("lab-disk", 5)
    };
    let bdf = disk.bdf();
    Scenario {
        name: "four_vcpus_and_ram_on_both_sides_of_the_hole",
        machine: Machine {
            memory: 6144,
            ..Machine::with_disks(std::slice::from_ref(&disk))
        },
        kernel: Choice::Stock,
        image: Image::BzImage,
        script: format!(
            "bind_vfio {bdf}\n\
             run_vmm --kernel bzImage --initrd initrd --cpus 4 --memory 4G \
             --cmdline 'quiet panic=-1 lab.buffered={}' --vfio {bdf}\n\
             give_back {bdf}\n",
            disk.buffered
        ),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            exit(&run, 0)?;
            worked(outcome, &run, &disk)?;
            let cpus = guest(&run, "cpus")?;
            expect(cpus == "4", || format!("the guest has {cpus} CPUs, not 4"))?;
            let memory = guest(&run, "memory")?;
            let kib: u64 = memory.trim_end_matches(" KiB").parse().unwrap_or(0);
            // The kernel keeps some for itself.
            expect((3900 << 10..=4 << 20).contains(&kib), || {
                format!("the guest has {memory} of its 4 GiB")
            })?;
            high_dma(guest(&run, "high-pages")?)?;
            back_with_guest_text(outcome, &disk)
        }),
    }
}

/// The page cache that the disk filled lies above 4 GiB, in the zone that Linux takes first.
fn high_dma(fact: &str) -> Result<()> {
    let [before, after, of] = ["before", "after", "of"].map(|name| number(fact, name).unwrap_or(0));
    expect(of > 0 && after >= before + of / 2, || {
        format!("too little of what the disk wrote to memory lies above 4 GiB: {fact}")
    })
}

/// Two devices in one container, or in one address space of iommufd.
fn two_disks() -> Scenario {
    let disks = [Disk::new("first-disk", 5), Disk::new("second-disk", 6)];
    let [a, b] = [disks[0].bdf(), disks[1].bdf()];
    let both = both::script(&b, &format!("--cpus 2 --vfio {a}"), |_| String::new());
    Scenario {
        name: "two_disks_in_two_groups",
        machine: Machine::with_disks(&disks),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!("bind_vfio {a}\n{both}give_back {a}\ngive_back {b}\n"),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let groups: Vec<_> = outcome
                .transcript
                .lab("bound")
                .filter_map(|fact| number(fact, "group"))
                .collect();
            expect(groups.len() == 2 && groups[0] != groups[1], || {
                format!("the two disks are not in two groups: {groups:?}")
            })?;
            both::check(outcome, |round, run| {
                disks
                    .iter()
                    .try_for_each(|disk| worked(outcome, run, disk))?;
                // iommufd of this kernel maps no BARs; the run goes on without, and says so.
                let without = run
                    .messages()
                    .any(|line| line.contains("no peer-to-peer DMA"));
                expect(
                    without == (both::INTERFACES[round as usize] == "iommufd"),
                    || "peer-to-peer DMA between the disks is told wrongly".into(),
                )
            })?;
            disks
                .iter()
                .try_for_each(|disk| back_with_guest_text(outcome, disk))
        }),
    }
}

/// What a read costs, by mini-vmm's own statistics: asked for before and after many reads, and told at
/// the end, when the guest's driver has turned its interrupts off.
fn exits_per_read() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    Scenario {
        name: "no_userspace_exit_per_read",
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel: Choice::Stock,
        image: Image::BzImage,
        // The guest is silent for a second after each mark; the signals fall into that silence.
        script: format!(
            "bind_vfio {bdf}\n\
             start_vmm --kernel bzImage --initrd initrd --memory 512M --stats=/run/stats.json \
             --cmdline 'quiet panic=-1 lab.act=measure' --vfio {bdf}\n\
             await M1 90\nreport first\n\
             await M2 90\nreport second\n\
             wait_vmm\n\
             say_report first /run/stats.first\nsay_report second /run/stats.second\n\
             say_report last /run/stats.json\n\
             give_back {bdf}\n"
        ),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            exit(&run, 0)?;
            worked(outcome, &run, &disk)?;
            let lines = run
                .messages()
                .filter(|line| line.starts_with("mini-vmm: exits pio="));
            expect(lines.count() == 2, || {
                "mini-vmm did not print its counts of exits on each SIGUSR1".into()
            })?;
            let [first, second, last] = ["first", "second", "last"].map(|name| stats(&run, name));
            let (first, second, last) = (first?, second?, last?);
            cost_of_a_read(&first, &second)?;
            whole_run(&last, &disk)?;
            expect(messages(&last) >= messages(&second), || {
                "interrupts were forgotten when the guest turned them off".into()
            })?;
            back_with_guest_text(outcome, &disk)
        }),
    }
}

/// The statistics that L1 said under a name.
fn stats(run: &Run<'_>, name: &str) -> Result<Value> {
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

/// Interrupts of all vectors.
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
        "  {MEASURED_READS} reads of 4 KiB; for each {:.4} exits to userspace, {:.3} to KVM ({:.3} halts), {:.3} interrupts",
        each(exits),
        each(in_kvm),
        each(halts),
        each(interrupts),
    );
    expect(exits > 0 && each(exits) < 0.01, || {
        format!("{exits} userspace exits for {MEASURED_READS} reads")
    })?;
    // One read at a time: an interrupt for each, and the guest left for KVM.
    expect(interrupts >= MEASURED_READS, || {
        format!("{interrupts} interrupts for {MEASURED_READS} reads")
    })?;
    expect(in_kvm > exits, || {
        format!("KVM counts {in_kvm} exits, and mini-vmm {exits}")
    })
}

/// What is true of any run with a disk and 512 MiB.
fn whole_run(stats: &Value, disk: &Disk) -> Result<()> {
    let list = |name: &str| stats[name].as_array().cloned().unwrap_or_default();
    let phases = list("phases");
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
    expect(opened == &disk.bdf(), || format!("{opened} was opened"))?;
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
    // The driver writes the table of its vectors, which is in a BAR. Its kernel masks all of them
    // twice, and of that KVM keeps all but the first's.
    let registers = stats["exits"]["registers"].as_array().cloned();
    let table = registers.unwrap_or_default().into_iter();
    let table = table.filter(|register| {
        let place = register["place"].as_str().unwrap_or_default();
        register["space"] == "memory" && register["write"] == true && place.ends_with("BAR 0")
    });
    let writes: u64 = table
        .filter_map(|register| register["count"].as_u64())
        .sum();
    eprintln!("  {writes} writes to the MSI-X table were exits");
    expect((1..NVME_VECTORS).contains(&writes), || {
        format!("{writes} exits are writes to the MSI-X table")
    })
}
