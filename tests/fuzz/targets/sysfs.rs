//! Any text in the files of /sys and /proc that are read about a host and its devices. Ranges of
//! the IOMMU and holders of a BAR are compared with models.

#![no_main]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use host::names::Names;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::Bdf;
use vmm::hostinfo::iova::{Reach, Reserved, common};
use vmm::hostinfo::memory::HostMemory;
use vmm::hostinfo::sysfs::Sysfs;
use vmm::hostinfo::{bars, device_names, iomem, resets};
use vmm_sys_util::tempdir::TempDir;

const DEVICE: &str = "0000:01:00.0";

#[derive(Debug, Arbitrary)]
enum Input {
    /// Lines of a group's reserved_regions, and the register that has the width.
    Reach(Vec<Region>, Option<u64>, Vec<u64>),
    /// Any text in both files.
    ReachText(String, String),
    Iomem(Vec<Line>),
    IomemText(String),
    Memory(String, String),
    Device {
        class: String,
        resource: String,
        resets: String,
    },
    Names(Vec<u8>, u16, u16),
    DeviceNames(String),
}

#[derive(Clone, Copy, Debug, Arbitrary)]
struct Region {
    first: u64,
    size: u32,
    kind: u8,
}

#[derive(Clone, Copy, Debug, Arbitrary)]
struct Line {
    depth: u8,
    first: u32,
    size: u16,
    name: u8,
}

fn dir() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let shm = Path::new("/dev/shm/mini-vmm-fuzz-");
        let dir = TempDir::new_with_prefix(shm).or_else(|_| TempDir::new());
        dir.expect("a directory")
    });
    dir.as_path()
}

fn write(name: &str, text: impl AsRef<[u8]>) {
    let path = dir().join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("a file");
}

/// The reach of the one group of a host with these files.
fn reach(regions: &str, cap: &str) -> Reach {
    let group = "sys/kernel/iommu_groups/0";
    write(&format!("{group}/reserved_regions"), regions);
    write(
        &format!("{group}/devices/{DEVICE}/iommu/intel-iommu/cap"),
        cap,
    );
    let mut all = Reach::of_groups(&Sysfs::at(dir().join("sys")));
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// The width that VT-d 4.1, 11.4.2 has: MGAW, and no more than the widest table of SAGAW.
fn width(cap: u64) -> u32 {
    let most = (cap >> 16 & 0x3f) as u32 + 1;
    let tables = [(1, 39), (2, 48), (3, 57)];
    let widest = tables
        .iter()
        .rev()
        .find(|(bit, _)| cap >> 8 >> bit & 1 != 0);
    most.min(widest.map_or(64, |(_, width)| *width))
}

fn check_reach(regions: &[Region], cap: Option<u64>, points: &[u64]) {
    let mut text = String::new();
    let mut holes = Vec::new();
    for region in regions.iter().take(12) {
        let last = region.first.saturating_add(region.size.into());
        let kind = ["direct", "direct-relaxable", "msi", "reserved"][usize::from(region.kind % 4)];
        text += &format!("0x{:016x} 0x{last:016x} {kind}\n", region.first);
        if kind != "direct-relaxable" {
            holes.push((region.first, last));
        }
    }
    let reach = reach(
        &text,
        &cap.map_or_else(String::new, |cap| format!("{cap:x}\n")),
    );
    let bits = cap.map_or(64, width);
    let last = if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    };
    let refused = regions.iter().take(12).any(|region| region.kind % 4 == 0);
    // A range up to the last address of all is no `Range`.
    if holes.iter().any(|(_, last)| *last == u64::MAX) {
        return;
    }
    assert_eq!(reach.is_refused(), refused);
    let ranges = reach.ranges();
    assert_eq!(common([&reach]), ranges);
    for pair in ranges.windows(2) {
        assert!(
            pair[0].end() <= pair[1].start,
            "ranges overlap: {ranges:x?}"
        );
    }
    let edges = holes
        .iter()
        .flat_map(|(first, last)| [first.wrapping_sub(1), *first, *last, last.wrapping_add(1)]);
    for point in edges.chain(points.iter().copied()).chain([0, last]) {
        // The last address of all is in no range.
        if point == u64::MAX {
            continue;
        }
        let free = point <= last && !holes.iter().any(|(a, b)| (*a..=*b).contains(&point));
        let found = ranges.iter().any(|range| range.contains(point, 1));
        assert_eq!(found, free, "{point:#x} with {bits} bits, {text}");
    }
}

fn check_text(regions: &str, cap: &str) {
    let reach = reach(regions, cap);
    let ranges = reach.ranges();
    for (hole, kind) in &reach.reserved {
        let free = |range: &pci::addr::Range| {
            range.start >= hole.end() || range.end() <= hole.start || hole.size == 0
        };
        assert!(*kind == Reserved::DirectRelaxable || ranges.iter().all(free));
    }
}

/// The names below the lines of the device.
fn check_iomem(lines: &[Line]) {
    let names = ["0000:01:00.0", "0000:02:00.0", "vfio-pci", "BOOTFB", "nvme"];
    let (mut text, mut expected, mut shown) = (String::new(), Vec::new(), false);
    let mut inside: Option<(u8, u64)> = None;
    for line in lines.iter().take(24) {
        let (depth, first) = (line.depth % 4 * 2, u64::from(line.first));
        let last = first + u64::from(line.size);
        let name = names[usize::from(line.name) % names.len()];
        text += &format!(
            "{}{first:08x}-{last:08x} : {name}\n",
            " ".repeat(depth.into())
        );
        shown |= last > 0;
        inside = inside.filter(|(bar, _)| depth > *bar);
        match inside {
            None if name == DEVICE => inside = Some((depth, first)),
            None => {}
            Some((_, bar)) => expected.push((bar, name)),
        }
    }
    let found = iomem::holders(&text, DEVICE.parse().expect("an address"));
    assert_eq!(found.is_some(), shown, "{text}");
    let found = found.unwrap_or_default();
    for (bar, name) in if shown { &expected[..] } else { &[] } {
        let holds = found.iter().any(|h| h.bar.start == *bar && h.name == *name);
        assert!(holds, "{name} in {bar:#x}: {text}");
    }
    for holder in &found {
        let known = expected.contains(&(holder.bar.start, &holder.name));
        assert!(known, "{holder:?}: {text}");
        assert_eq!(holder.is_vfio(), holder.name == "vfio-pci");
    }
}

fn check_device(class: &str, resource: &str, reset: &str) {
    let home = format!("sys/bus/pci/devices/{DEVICE}");
    write(&format!("{home}/class"), class);
    write(&format!("{home}/resource"), resource);
    write(&format!("{home}/reset_method"), reset);
    let sysfs = Sysfs::at(dir().join("sys"));
    let bdf: Bdf = DEVICE.parse().expect("an address");
    let device = sysfs.device(bdf).expect("a device").expect("a device");
    assert_eq!(
        sysfs.devices().expect("devices"),
        std::slice::from_ref(&device)
    );
    let _ = resets::methods(&device.path);
    if let Some(bars) = bars::read(&device.path) {
        for (index, bar, _) in bars.iter() {
            assert!(
                index < 6 && bar.size.is_power_of_two(),
                "BAR {index}: {bar:?}"
            );
        }
    }
}

fuzz_target!(|input: Input| {
    match &input {
        Input::Reach(regions, cap, points) => check_reach(regions, *cap, points),
        Input::ReachText(regions, cap) => check_text(regions, cap),
        Input::Iomem(lines) => check_iomem(lines),
        Input::IomemText(text) => {
            let found = iomem::holders(text, DEVICE.parse().expect("an address"));
            assert!(found.unwrap_or_default().len() <= text.lines().count());
        }
        Input::Memory(meminfo, group) => {
            write("proc/meminfo", meminfo);
            write("proc/self/cgroup", group);
            let memory = HostMemory::read_at(&dir().join("proc"), &dir().join("sys/fs/cgroup"));
            assert!(memory.is_none_or(|memory| memory.available <= memory.total));
        }
        Input::Device {
            class,
            resource,
            resets,
        } => check_device(class, resource, resets),
        Input::Names(list, vendor, device) => {
            let names = Names::parse(list);
            let (vendor, device) = names.find(*vendor, *device);
            assert!(vendor.is_some() || device.is_none());
        }
        Input::DeviceNames(text) => {
            write("devices.toml", text);
            if let Err(e) = device_names::read(&dir().join("devices.toml")) {
                assert!(!e.hint().is_empty(), "{e}");
            }
        }
    }
});
