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
/// The quantity; where others than mini-vmm's number of threads filled the RAM, their number follows.
pub const MAPPED: &str = "mapped";
/// What `floor map` and mini-vmm's `hugepages=` call them, and what they are called here.
const PAGES: [(&str, &str, &str); 4] = [
    ("4K", "off", "4 KiB pages"),
    ("thp", "thp", "transparent huge pages"),
    ("2M", "2M", "2 MiB pages"),
    ("1G", "1G", "1 GiB pages"),
];
/// The bare calls: which of [`FLOORS`], and how many threads fill the RAM.
const BARE: [(usize, u32); 4] = [(0, 1), (0, 2), (1, 1), (1, 2)];

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
    let threads = filling(l1.cpus);
    l1.memory = 3840;
    l1.parameters = " hugepagesz=1G hugepages=1 hugepagesz=2M";
    let session = Session {
        name: "bench-maps",
        machine: l1,
        before: format!("bind_vfio {bdf}"),
        round,
    };
    let facts = session.run(plan, "part 4, memory for DMA")?;
    take(&facts, plan, threads, results);
    Ok(())
}

/// `threads` is how many fill mini-vmm's RAM.
fn take(facts: &Facts, plan: &Plan, threads: u32, results: &mut Results) {
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
                let Some((_, by)) = BARE
                    .iter()
                    .find(|(_, threads)| value(fact.rest, "threads") == Some(f64::from(*threads)))
                else {
                    continue;
                };
                add(&filled(*by), floor, value(fact.rest, "made"));
                // Other threads may leave the RAM in other pieces.
                let with = if *by == threads {
                    String::new()
                } else {
                    format!(", {}", filled(*by))
                };
                for what in [MAPPED, "unmapped"] {
                    add(&format!("{what}{with}"), floor, value(fact.rest, what));
                }
            }
            "counts" => {
                let ms = |name| value(fact.rest, name).map(|micros| micros / 1e3);
                let ours = &plan.peers[0].name;
                // Where the whole RAM is one page, whoever is the first to touch it fills it, which may
                // be the loading of images beside them.
                let filling = ["phase.populate_ram", "phase.load_images"];
                let filling = filling.into_iter().filter_map(ms).reduce(f64::max);
                add(&filled(threads), ours, filling);
                add(MAPPED, ours, ms("dma.ram"));
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

/// How many threads fill mini-vmm's RAM for a device: one CPU is left to the rest of the set-up.
pub fn filling(cpus: u32) -> u32 {
    cpus.saturating_sub(1).max(1)
}

/// Quantity of RAM filled by so many threads.
pub fn filled(threads: u32) -> String {
    let s = if threads == 1 { "" } else { "s" };
    format!("filled by {threads} thread{s}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::SUBJECT;

    #[test]
    fn everybody_is_named_by_the_threads_that_filled() {
        let lines = [
            "round 1",
            "mapped 1 by=0 threads=1 made=500 mapped=9 unmapped=3",
            "mapped 1 by=0 threads=2 made=300 mapped=8 unmapped=2",
            "counts 1 phase.populate_ram=510000 phase.load_images=1000 dma.ram=9000",
            "script 0",
        ];
        let facts = Facts::of(lines.map(String::from).into_iter(), "/d".as_ref()).unwrap();
        let mut results = Results::default();
        take(&facts, &Plan::example(), filling(2), &mut results);
        let told = results.measures.iter().map(|m| {
            assert_eq!(m.work, "1 GiB of RAM, transparent huge pages");
            (m.quantity.as_str(), m.subject.as_str(), m.samples[0])
        });
        let floor = FLOORS[0].1;
        let expected = [
            ("filled by 1 thread", floor, 500.0),
            ("mapped", floor, 9.0),
            ("unmapped", floor, 3.0),
            ("filled by 2 threads", floor, 300.0),
            ("mapped, filled by 2 threads", floor, 8.0),
            ("unmapped, filled by 2 threads", floor, 2.0),
            ("filled by 1 thread", SUBJECT, 510.0),
            ("mapped", SUBJECT, 9.0),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
