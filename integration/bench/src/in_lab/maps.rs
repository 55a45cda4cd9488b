//! Part 4: measures the time to make one GiB of RAM, map it for a device's DMA and unmap it, with
//! pages of each size. The bare calls (src/bin/floor) show the kernel's time by iommufd, which
//! mini-vmm prefers, and by type 1. mini-vmm's own statistics show its time with the same pages.
//! Its guest halts: mapping beside the running guest has all CPUs, as for the bare calls.

use lab::disk::Disk;

use super::facts::{Fact, Facts, value};
use super::filling::{self, filled};
use super::l1;
use super::session::Session;
use super::setup::Setup;
use crate::error::Result;
use crate::names::{FLOORS, MAPPED};
use crate::results::{Key, Results};
use crate::subjects::bare_calls::Map;
use crate::subjects::{Guest, Subjects};

const MIB: u32 = 1024;

/// One size of pages, by its names.
struct Pages {
    /// The name in `floor map`.
    floor: &'static str,
    /// The name in mini-vmm's option `hugepages=`.
    ours: &'static str,
    /// The name in the results.
    name: &'static str,
}

const PAGES: [Pages; 4] = [
    Pages {
        floor: "4K",
        ours: "off",
        name: "4 KiB pages",
    },
    Pages {
        floor: "thp",
        ours: "thp",
        name: "transparent huge pages",
    },
    Pages {
        floor: "2M",
        ours: "2M",
        name: "2 MiB pages",
    },
    Pages {
        floor: "1G",
        ours: "1G",
        name: "1 GiB pages",
    },
];

/// The runs of the bare calls: the index in [`FLOORS`], and the number of threads that fill the
/// RAM.
const BARE: [(usize, u32); 4] = [(0, 1), (0, 2), (1, 1), (1, 2)];

/// Measures part 4, and adds the figures to the results.
pub fn run(setup: &Setup<'_>, results: &mut Results) -> Result<()> {
    let disk = Disk::new("bench", 5);
    let bdf = disk.bdf();
    let lines = PAGES.iter().enumerate();
    let round = lines
        .map(|(id, pages)| script(setup.subjects, id, pages, &bdf))
        .collect();
    let mut machine = l1::machine(&[disk]);
    let threads = filling::threads(machine.cpus);
    machine.memory = 3840;
    machine.parameters = " hugepagesz=1G hugepages=1 hugepagesz=2M";
    let session = Session {
        name: "bench-maps",
        machine,
        before: format!("bind_vfio {bdf}"),
        round,
    };
    let facts = session.run(setup, "part 4, memory for DMA")?;
    take(&facts, setup.subjects, threads, results);
    Ok(())
}

/// L1's script for pages of one size.
fn script(subjects: &Subjects, id: usize, pages: &Pages, bdf: &str) -> String {
    let mut script = String::new();
    // Pages of 2 MiB are reserved only while a run needs them.
    let reserve = "/proc/sys/vm/nr_hugepages";
    if pages.floor == "2M" {
        script.push_str(&format!("echo {} >{reserve}\n", MIB / 2));
    }
    for (by, threads) in BARE {
        let map = Map {
            interface: FLOORS[by].0,
            device: bdf,
            mib: MIB,
            pages: pages.floor,
            threads,
        };
        script.push_str(&format!(
            "{} | sed 's/^/LAB: mapped {id} by={by} threads={threads} /'\n",
            l1::map(subjects.bare_calls(), &map)
        ));
    }
    let abilities = subjects.abilities();
    if abilities.stats && (abilities.hugepages || pages.floor == "thp") {
        let hugepages = format!(",hugepages={}", pages.ours);
        let devices = [bdf];
        let guest = Guest {
            mib: MIB,
            devices: &devices,
            memory_options: if abilities.hugepages { &hugepages } else { "" },
            ..Guest::new(l1::halting())
        };
        let command = l1::counting(subjects.ours(), &guest, abilities);
        script.push_str(&format!("probe marks {id} stats 1 -- {command} -v || :\n"));
    }
    if pages.floor == "2M" {
        script.push_str(&format!("echo 0 >{reserve}\n"));
    }
    script
}

/// Adds the facts to the results. `threads` is the number of threads that fill mini-vmm's RAM.
fn take(facts: &Facts, subjects: &Subjects, threads: u32, results: &mut Results) {
    for fact in facts.iter() {
        let Some(pages) = PAGES.get(fact.run) else {
            continue;
        };
        let work = format!("1 GiB of RAM, {}", pages.name);
        let mut add = |quantity: &str, subject: &str, sample: f64| {
            let key = Key {
                part: 4,
                work: &work,
                at: None,
                quantity: (quantity, "ms"),
            };
            results.add(&key, subject, sample);
        };
        if fact.kind == "mapped" {
            bare_calls(fact, threads, &mut add);
        } else {
            let ours = &subjects.ours().name;
            mini_vmm(fact, threads, &mut |quantity, ms| add(quantity, ours, ms));
        }
    }
    results.missing.extend(facts.failed_runs(4));
    let abilities = subjects.abilities();
    if !(abilities.stats && abilities.hugepages) {
        let line = "part 4, some of mini-vmm: this one has no --stats, or no hugepages=";
        results.missing.push(line.into());
    }
}

/// Calls `add` with each figure of the bare calls: the quantity, the subject, the milliseconds.
fn bare_calls(fact: Fact<'_>, threads: u32, add: &mut dyn FnMut(&str, &str, f64)) {
    let floor = value(fact.rest, "by").and_then(|by| FLOORS.get(by as usize));
    let by = value(fact.rest, "threads");
    let by = BARE.iter().find(|(_, known)| by == Some((*known).into()));
    let (Some((_, floor)), Some((_, by))) = (floor, by) else {
        return;
    };
    if let Some(ms) = value(fact.rest, "made") {
        add(&filled(*by), floor, ms);
    }
    // The number of threads that fill the RAM changes how fragmented the RAM is.
    let with = if *by == threads {
        String::new()
    } else {
        format!(", {}", filled(*by))
    };
    for what in [MAPPED, "unmapped"] {
        if let Some(ms) = value(fact.rest, what) {
            add(&format!("{what}{with}"), floor, ms);
        }
    }
}

/// Calls `add` with each figure of mini-vmm: the quantity and the milliseconds.
fn mini_vmm(fact: Fact<'_>, threads: u32, add: &mut dyn FnMut(&str, f64)) {
    let ms = |name| value(fact.rest, name).map(|micros| micros / 1e3);
    match fact.kind {
        "counts" => {
            // If the whole RAM is one page, the first thread to touch the page fills all of it.
            // That may be the thread that loads kernel and initramfs.
            let filling = ["phase.populate_ram", "phase.load_images"];
            let filling = filling.into_iter().filter_map(ms).reduce(f64::max);
            if let Some(ms) = filling {
                add(&filled(threads), ms);
            }
            if let Some(ms) = ms("dma.ram") {
                add(MAPPED, ms);
            }
        }
        "ended" => {
            if let Some(ms) = ms("unmapped") {
                add("unmapped", ms);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::SUBJECT;

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
        take(
            &facts,
            &Subjects::example(Vec::new()),
            filling::threads(2),
            &mut results,
        );
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
