//! Made-up trees of sysfs and /proc give each verdict.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::context::fact::Verdict;

const DISK: &str = "0000:01:00.0";

struct Tree(PathBuf);

/// A machine whose facts are all good: a disk behind a port, CPUs 2 and 3 of node 0.
impl Tree {
    fn good() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-context-{}-{number}", std::process::id());
        let tree = Self(std::env::temp_dir().join(name));
        let port = "sys/devices/pci0000:00/0000:00:1c.0";
        let disk = format!("{port}/{DISK}");
        for (path, text) in [
            (format!("{disk}/current_link_speed"), "16.0 GT/s PCIe"),
            (format!("{disk}/current_link_width"), "4"),
            (format!("{disk}/max_link_speed"), "32.0 GT/s PCIe"),
            (format!("{disk}/max_link_width"), "4"),
            (format!("{disk}/numa_node"), "0"),
            (format!("{disk}/iommu_group/type"), "DMA-FQ"),
            (format!("{port}/max_link_speed"), "16.0 GT/s PCIe"),
            (format!("{port}/max_link_width"), "16"),
            ("sys/devices/system/node/node0/cpulist".into(), "0-3"),
            ("sys/devices/system/cpu/isolated".into(), "2-3"),
            (
                "sys/devices/system/cpu/vulnerabilities/retbleed".into(),
                "Mitigation: x",
            ),
            (
                "sys/devices/system/cpu/vulnerabilities/mds".into(),
                "Not affected",
            ),
            (
                "sys/kernel/mm/transparent_hugepage/enabled".into(),
                "always [madvise] never",
            ),
            ("sys/module/kvm_amd/parameters/avic".into(), "1"),
            ("proc/loadavg".into(), "0.01 0.05 0.07 1/200 3"),
        ] {
            tree.set(&path, text);
        }
        for cpu in [2, 3] {
            let dir = format!("sys/devices/system/cpu/cpu{cpu}");
            tree.set(&format!("{dir}/cpufreq/scaling_governor"), "performance");
            tree.set(&format!("{dir}/topology/thread_siblings_list"), "2-3");
            tree.set(&format!("{dir}/thermal_throttle/core_throttle_count"), "1");
        }
        fs::create_dir_all(tree.0.join("sys/bus/pci/devices")).unwrap();
        let link = tree.0.join("sys/bus/pci/devices").join(DISK);
        symlink(tree.0.join(disk), link).unwrap();
        tree
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn read(&self) -> Vec<Fact> {
        read(&Machine::at(&self.0, DISK, &[2, 3]))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_good_machine_has_good_facts() {
    let facts = Tree::good().read();
    assert!(
        facts.iter().all(|f| f.verdict == Verdict::Good),
        "{facts:#?}"
    );
    assert_eq!(facts.len(), 12);
    let link = facts.iter().find(|fact| fact.name == "link").unwrap();
    assert!(link.text.starts_with("16 GT/s x4"), "{}", link.text);
    let mitigations = facts
        .iter()
        .find(|fact| fact.name == "mitigations")
        .unwrap();
    assert_eq!(mitigations.text, "retbleed");
    let tree = Tree::good();
    let pmus = "sys/bus/event_source/devices";
    for name in ["cpu", "dmar0"] {
        fs::create_dir_all(tree.0.join(pmus).join(name)).unwrap();
    }
    let of = |facts: Vec<Fact>| facts.into_iter().find(|f| f.name == "iommu events");
    let (without, with) = (of(facts).unwrap().text, of(tree.read()).unwrap().text);
    assert!(
        without.contains("no PMU") && with.starts_with("dmar0 can"),
        "{with}"
    );
}

/// An attribute, its value, the fact that it makes, and a part of the remedy.
const FAULTS: &[(&str, &str, &str, Verdict, &str)] = &[
    (
        "DISK/current_link_speed",
        "2.5 GT/s PCIe",
        "link",
        Verdict::Invalid,
        "LnkSta",
    ),
    (
        "DISK/current_link_width",
        "1",
        "link",
        Verdict::Invalid,
        "LnkSta",
    ),
    ("DISK/numa_node", "1", "numa", Verdict::Poor, "--cpus 4-7"),
    (
        "DISK/iommu_group/type",
        "identity",
        "iommu",
        Verdict::Poor,
        "passthrough=0",
    ),
    (
        "DISK/iommu_group/type",
        "DMA",
        "iommu",
        Verdict::Poor,
        "strict=0",
    ),
    (
        "CPU/cpu3/cpufreq/scaling_governor",
        "powersave",
        "governor",
        Verdict::Poor,
        "cpupower",
    ),
    (
        "CPU/cpu2/topology/thread_siblings_list",
        "2,10",
        "smt-sibling",
        Verdict::Poor,
        "smt/",
    ),
    ("CPU/isolated", "3", "isolated", Verdict::Poor, "isolcpus="),
    (
        "HUGE",
        "always madvise [never]",
        "huge-pages",
        Verdict::Poor,
        "madvise",
    ),
    (
        "sys/module/kvm_amd/parameters/avic",
        "0",
        "interrupts",
        Verdict::Poor,
        "avic=1",
    ),
    ("INTEL", "N", "interrupts", Verdict::Poor, "enable_apicv=1"),
    (
        "proc/loadavg",
        "1.50 0.05 0.07 1/200 3",
        "load",
        Verdict::Poor,
        "top",
    ),
];

#[test]
fn each_fault_has_its_verdict_and_its_remedy() {
    for (path, text, name, verdict, remedy) in FAULTS {
        let path = path
            .replace("DISK", &format!("sys/bus/pci/devices/{DISK}"))
            .replace("CPU", "sys/devices/system/cpu")
            .replace("HUGE", "sys/kernel/mm/transparent_hugepage/enabled")
            .replace("INTEL", "sys/module/kvm_intel/parameters/enable_apicv");
        let tree = Tree::good();
        tree.set("sys/devices/system/node/node1/cpulist", "4-7");
        if path.contains("kvm_intel") {
            tree.set("proc/cpuinfo", "vendor_id\t: GenuineIntel");
        }
        tree.set(&path, text);
        let facts = tree.read();
        let not_good: Vec<&Fact> = facts
            .iter()
            .filter(|f| f.verdict != Verdict::Good)
            .collect();
        let [fact] = not_good.as_slice() else {
            panic!("{path}: {not_good:#?}");
        };
        assert_eq!((fact.name.as_str(), fact.verdict), (*name, *verdict));
        assert!(fact.remedy.as_ref().unwrap().contains(remedy), "{fact:?}");
    }
}

#[test]
fn heat_and_a_slower_link_during_the_run_make_it_invalid() {
    let tree = Tree::good();
    let before = tree.read();
    assert!(changes(&before, &tree.read()).is_empty());
    tree.set(
        "sys/devices/system/cpu/cpu3/thermal_throttle/core_throttle_count",
        "9",
    );
    tree.set(
        &format!("sys/bus/pci/devices/{DISK}/current_link_speed"),
        "8.0 GT/s PCIe",
    );
    let changed = changes(&before, &tree.read());
    let names: Vec<&str> = changed.iter().map(|fact| fact.name.as_str()).collect();
    assert_eq!(names, ["link", "throttled"]);
    assert!(changed.iter().all(|fact| fact.verdict == Verdict::Invalid));
}

/// A link that sleeps before the work is slow then, and not while the work runs.
#[test]
fn only_a_link_that_is_slow_under_load_is_invalid() {
    let tree = Tree::good();
    let port = "sys/devices/pci0000:00/0000:00:1c.0";
    tree.set(
        &format!("{port}/{DISK}/current_link_speed"),
        "2.5 GT/s PCIe",
    );
    let machine = Machine::at(&tree.0, DISK, &[2, 3]);
    let judged = |seen: &[link::Link]| {
        let mut loaded = link::Loaded::default();
        seen.iter().for_each(|link| loaded.add(*link));
        let mut facts = read(&machine);
        under_load(&mut facts, &machine, &loaded);
        let mut of_link = facts.into_iter().filter(|f| f.name.starts_with("link"));
        let last = of_link.next_back().unwrap();
        (last.name, last.verdict, last.text, of_link.count())
    };
    assert_eq!(link::now(&machine), Some((2.5, 4)));
    let (name, verdict, ..) = judged(&[]);
    assert_eq!((name.as_str(), verdict), ("link", Verdict::Invalid));
    let (name, verdict, text, others) = judged(&[(16.0, 4), (16.0, 4)]);
    assert_eq!((name.as_str(), others), ("link under load", 0));
    assert!(
        verdict == Verdict::Good && text.contains("16 GT/s x4"),
        "{text}"
    );
    let (_, verdict, text, others) = judged(&[(16.0, 4), (8.0, 4), (16.0, 4)]);
    assert!(verdict == Verdict::Poor && others == 0, "{text}");
    assert!(text.contains("slower at 1 of 3 looks"), "{text}");
    let slow = [
        (16.0, 4),
        (16.0, 2),
        (8.0, 4),
        (8.0, 4),
        (16.0, 4),
        (16.0, 4),
    ];
    let (_, verdict, text, others) = judged(&slow);
    assert!(verdict == Verdict::Invalid && others == 1, "{text}");
    let wanted = "slower at 3 of 6 looks while the work ran, mostly 8 GT/s x4;";
    assert!(text.contains(wanted), "{text}");
}

/// A function that is neither disk nor port has no work, so nobody looks under load.
#[test]
fn an_idle_link_makes_no_run_without_work_invalid() {
    let tree = Tree::good();
    let before = tree.read();
    let speed = format!("sys/bus/pci/devices/{DISK}/current_link_speed");
    tree.set(&speed, "2.5 GT/s PCIe");
    let mut facts = tree.read();
    facts.extend(changes(&before, &facts));
    let of_link = |facts: &[Fact]| -> Vec<Verdict> {
        let facts = facts.iter().filter(|fact| fact.name == fact::LINK);
        facts.map(|fact| fact.verdict).collect()
    };
    assert_eq!(of_link(&facts), [Verdict::Invalid; 2]);
    without_work(&mut facts);
    assert_eq!(of_link(&facts), [Verdict::Poor; 2]);
    let mut good = before.clone();
    without_work(&mut good);
    assert_eq!(good, before);
}
