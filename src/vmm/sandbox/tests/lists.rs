//! Every thread of the program has a kind or a reason, and every row of the lists says why.

use crate::sandbox::calls::{self, CALLS};
use crate::sandbox::ioctls::{self, IOCTLS};
use crate::sandbox::{Kind, names};

/// The files that start threads which end before the guest runs, or which inherit the filter of the
/// thread that starts them.
const UNCONFINED: [&str; 5] = [
    "vmm/machine/open_devices.rs",
    "vmm/machine/vcpus.rs",
    "vmm/memory/ram.rs",
    "vmm/vcpu/pin.rs",
    "vmm/vfio/open/parallel.rs",
];
/// Files and folders of other processes: what makes calls for devices, the programs that `host`
/// runs, the commands of a client, the tracer, the benchmark.
const OTHER_PROCESS: [&str; 5] = [
    "vmm/vfio/opener/helper.rs",
    "host/limited_command.rs",
    "ctl/",
    "trace/",
    "bench/",
];
/// The threads of the server for requests call what src/control.rs gives: that is `enter`.
const BY_A_CALL: [&str; 2] = ["api/server.rs", "api/workers.rs"];

/// The source files below a folder, without those of tests and models.
fn sources(folder: &std::path::Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.is_dir() && !["target", "tests", "fake"].contains(&name.as_str()) {
            sources(&path, into);
        } else if name.ends_with(".rs") && !["tests.rs", "models.rs"].contains(&name.as_str()) {
            into.push(path);
        }
    }
}

/// A thread that somebody adds is confined, or has a reason here.
#[test]
fn every_thread_is_confined() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = root.parent().unwrap();
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut confined = Vec::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let count = |what: &str| code.matches(what).count();
        // A method of this name starts one by the builder.
        let starts = count(".spawn(") - count("self.spawn(");
        let starts = starts + count(".spawn_scoped(") + count("thread::spawn(");
        let known = UNCONFINED.iter().chain(&OTHER_PROCESS);
        if starts == 0 || known.clone().any(|known| name.starts_with(known)) {
            continue;
        }
        let enters = match BY_A_CALL.contains(&name) {
            true => count("begin(Server") + count("begin(which"),
            false => count("sandbox::enter("),
        };
        assert_eq!(
            enters, starts,
            "{name} starts threads that are not confined"
        );
        confined.push(name.to_string());
    }
    confined.sort();
    let wanted = [
        "api/server.rs",
        "api/workers.rs",
        "vmm/devices/output_queue.rs",
        "vmm/event_thread.rs",
        "vmm/machine/ends.rs",
        "vmm/machine/opening.rs",
        "vmm/machine/plug_remove.rs",
        "vmm/memory/prefault.rs",
        "vmm/vcpu/threads.rs",
    ];
    assert_eq!(confined, wanted);
    let control = std::fs::read_to_string(root.join("control.rs")).unwrap();
    assert!(control.contains("begin_threads_with(|thread| {\n        sandbox::enter("));
}

#[test]
fn every_row_says_why_and_which() {
    for row in CALLS {
        assert!(!row.why.is_empty() && !row.kinds.is_empty(), "{row:?}");
        assert!(names::name(row.number).is_some(), "{row:?}");
    }
    for row in IOCTLS {
        assert!(!row.why.is_empty() && !row.kinds.is_empty(), "{row:?}");
    }
    // A kind that starts others has their lists.
    for kind in Kind::ALL {
        for other in kind.starts() {
            let has = |number| calls::list(kind).any(|row| row.number == number);
            assert!(calls::list(*other).all(|row| has(row.number)), "{kind:?}");
            let has = |request| ioctls::list(kind).any(|row| row.request == request);
            assert!(ioctls::list(*other).all(|row| has(row.request)), "{kind:?}");
        }
    }
    let opens = |kind| calls::list(kind).any(|row| row.number == libc::SYS_openat);
    let opening: Vec<_> = Kind::ALL.into_iter().filter(|kind| opens(*kind)).collect();
    assert_eq!(opening, [Kind::Main, Kind::Queries, Kind::Changes]);
    let runs = |kind| ioctls::list(kind).any(|row| row.name == "KVM_RUN");
    let running: Vec<_> = Kind::ALL.into_iter().filter(|kind| runs(*kind)).collect();
    assert_eq!(running, [Kind::Main, Kind::Vcpu]);
}

/// What a thread does seldom, and no short run shows.
#[test]
fn the_lists_have_the_ioctls_of_rare_paths() {
    use Kind::{Main, Memory, Vcpu};
    for (kind, request, path) in [
        (
            Vcpu,
            "KVM_GET_MSRS",
            "a lost page: whether the guest takes machine checks",
        ),
        (Vcpu, "KVM_X86_SET_MCE", "a lost page"),
        (
            Vcpu,
            "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
            "the guest resets the bus of a device that has no reset of its own",
        ),
        (
            Main,
            "KVM_GET_DEVICE_ATTR",
            "a reset of a guest that has set its TSC",
        ),
        (Main, "KVM_SET_DEVICE_ATTR", "the same"),
        (
            Memory,
            "VFIO_DEVICE_FEATURE",
            "a BAR that has waited for RAM, by iommufd",
        ),
        (Memory, "IOMMU_IOAS_MAP_FILE", "the same"),
    ] {
        let has = ioctls::list(kind).any(|row| row.name == request);
        assert!(has, "{kind:?} lacks {request}: {path}");
    }
    // A thread that maps a BAR exports it first.
    for kind in Kind::ALL {
        let has = |name| ioctls::list(kind).any(|row| row.name == name);
        let (exports, maps) = (has("VFIO_DEVICE_FEATURE"), has("IOMMU_IOAS_MAP_FILE"));
        assert_eq!(exports, maps, "{kind:?}");
    }
}
