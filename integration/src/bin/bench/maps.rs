//! Part 4: a GiB of RAM made, mapped for a device's DMA and unmapped, with pages of each size. The bare
//! calls (src/bin/floor) show what the kernel takes by iommufd, which mini-vmm prefers, and by type 1;
//! mini-vmm's own statistics show what it takes on the same pages. Its guest halts, so that a map made
//! beside the running guest has the CPUs for itself, as that of the bare calls has.

use lab::Result;
use lab::disk::Disk;

use crate::peers::{Guest, Kind};
use crate::plan::Plan;
use crate::results::{FLOORS, Key, Results};
use crate::session::{Facts, Session, at, counting, machine, subjects, value};

const MIB: u32 = 1024;
/// What `floor map` and mini-vmm's `hugepages=` call them, and what they are called here.
const PAGES: [(&str, &str, &str); 4] = [
    ("4K", "off", "4 KiB pages"),
    ("thp", "thp", "transparent huge pages"),
    ("2M", "2M", "2 MiB pages"),
    ("1G", "1G", "1 GiB pages"),
];
/// The bare calls: which of [`FLOORS`], and how many threads fill the RAM.
const BARE: [(usize, u32); 3] = [(0, 1), (0, 2), (1, 2)];

/// Measures, and adds to the results.
pub fn run(plan: &Plan, results: &mut Results) -> Result<()> {
    let disk = Disk::new("bench", 5);
    let bdf = disk.bdf();
    let mut round = String::new();
    for (n, (floor, ours, _)) in PAGES.iter().enumerate() {
        // Pages of 2 MiB are taken from the rest only while they are needed.
        let reserve = "/proc/sys/vm/nr_hugepages";
        if *floor == "2M" {
            round.push_str(&format!("echo {} >{reserve}\n", MIB / 2));
        }
        for (by, threads) in BARE {
            let interface = FLOORS[by].0;
            round.push_str(&format!(
                "floor map {interface} {bdf} {MIB} {floor} {threads} | \
                 sed 's/^/LAB: mapped {n} by={by} threads={threads} /'\n"
            ));
        }
        for peer in subjects(plan).filter(|peer| peer.kind == Kind::MiniVmm && plan.stats) {
            if !plan.hugepages && *floor != "thp" {
                continue;
            }
            let hugepages = format!(",hugepages={ours}");
            let guest = Guest {
                kernel: at::halting(),
                initrd: None,
                cmdline: "",
                cpus: 1,
                mib: MIB,
                devices: &[&bdf],
                cpu_options: "",
                memory_options: if plan.hugepages { &hugepages } else { "" },
            };
            let line = counting(plan, peer, &guest);
            round.push_str(&format!("probe marks {n} stats 1 -- {line} -v || :\n"));
        }
        if *floor == "2M" {
            round.push_str(&format!("echo 0 >{reserve}\n"));
        }
    }
    let mut l1 = machine(&[disk]);
    l1.memory = 3840;
    l1.parameters = " hugepagesz=1G hugepages=1 hugepagesz=2M";
    let session = Session {
        name: "bench-maps",
        machine: l1,
        before: format!("bind_vfio {bdf}"),
        round,
    };
    let facts = session.run(plan, "part 4, memory for DMA")?;
    take(&facts, plan, results);
    Ok(())
}

fn take(facts: &Facts, plan: &Plan, results: &mut Results) {
    for fact in facts.iter() {
        let Some((.., pages)) = PAGES.get(fact.run) else {
            continue;
        };
        let work = format!("1 GiB of RAM, {pages}");
        let mut add = |quantity: &str, subject: &str, sample: Option<f64>| {
            let key = Key {
                part: 4,
                work: &work,
                at: None,
                quantity: (quantity, "ms"),
            };
            if let Some(sample) = sample {
                results.add(&key, subject, sample);
            }
        };
        match fact.kind {
            "mapped" => {
                let by = value(fact.rest, "by").unwrap_or(0.0) as usize;
                let Some((_, floor)) = FLOORS.get(by) else {
                    continue;
                };
                let threads = value(fact.rest, "threads").unwrap_or(1.0);
                add(&filled(threads), floor, value(fact.rest, "made"));
                // As many threads as mini-vmm has: they may leave the RAM in other pieces.
                if threads == 2.0 {
                    add("mapped", floor, value(fact.rest, "mapped"));
                    add("unmapped", floor, value(fact.rest, "unmapped"));
                }
            }
            "counts" => {
                let ms = |name| value(fact.rest, name).map(|micros| micros / 1e3);
                let ours = &plan.peers[0].name;
                // It takes a thread for each CPU; and where the whole RAM is one page, whoever is the
                // first to touch it fills it, which may be the loading of images beside them.
                let filling = ["phase.populate_ram", "phase.load_images"];
                let filling = filling.into_iter().filter_map(ms).reduce(f64::max);
                add(&filled(2.0), ours, filling);
                add("mapped", ours, ms("dma.ram"));
            }
            "ended" => {
                let ours = &plan.peers[0].name;
                let ms = value(fact.rest, "unmapped").map(|micros| micros / 1e3);
                add("unmapped", ours, ms);
            }
            _ => {}
        }
    }
    for why in &facts.failures {
        results.missing.push(format!("part 4, a run: {why}"));
    }
    if !(plan.stats && plan.hugepages) {
        let line = "part 4, some of mini-vmm: this one has no --stats, or no hugepages=";
        results.missing.push(line.into());
    }
}

fn filled(threads: f64) -> String {
    if threads == 1.0 {
        "filled by 1 thread".into()
    } else {
        format!("filled by {threads} threads")
    }
}
