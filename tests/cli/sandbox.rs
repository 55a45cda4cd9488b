//! A host made of files: the program runs in a mount namespace of its own, where /sys, /dev, /run,
//! /etc, the list of PCI IDs and /proc/cpuinfo are those of a made-up host.
//!
//! | device | what | driver | group |
//! | --- | --- | --- | --- |
//! | 0000:00:1c.0 | bridge | pcieport | 7 |
//! | 0000:01:00.0 | NVMe, with virtual functions and every kind of capability | nvme | 7 |
//! | 0000:01:00.1 | network card | e1000e | 7 |
//! | 0000:02:00.0 | sound card | vfio-pci | 8 |
//! | 0000:02:00.1 | sound card | snd_hda_intel | 8 |
//! | 0000:03:00.0 | USB controller, asleep, not in the list of PCI IDs | none | none |
//! | 0000:04:00.0 | NVMe, alone, with the ordinary capabilities | nvme | 9 |
//! | 0000:04:10.0 | a virtual function of 0000:01:00.0 | vfio-pci | 10 |
//! | 0000:05:00.0 | graphics, which the firmware shares memory with | none | 11 |
//!
//! A mediated device is made of 0000:01:00.0, and another of no PCI device.
//! /etc/mini-vmm/devices.toml names 0000:04:00.0 `disk`, and another kind of device at 0000:02:00.0
//! `card`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use vmm_sys_util::tempdir::TempDir;

use crate::common::config_space::{MSIX, SERIAL_NUMBER, config_space, put};
use crate::process::PROGRAM;
use crate::skipped;

/// A mediated device in group 12, and one that is no PCI function.
pub const MEDIATED: &str = "0f0e0d0c-0b0a-0908-0706-050403020100";
const NOT_PCI: &str = "0f0e0d0c-0b0a-0908-0706-050403020101";

const NAMES: &str = "\
disk = { address = \"0000:04:00.0\", id = \"1234:5678\" }
card = { address = \"0000:02:00.0\", id = \"1234:00ff\" }
";

/// The shell script that makes the namespace; its first argument is the made-up host's directory.
const ENTER: &str = "\
mount --bind \"$0/sys\" /sys && mount --bind \"$0/cpuinfo\" /proc/cpuinfo &&
mount --bind \"$0/iomem\" /proc/iomem &&
cp /etc/passwd /etc/group \"$0/etc\" && mount --bind \"$0/etc\" /etc &&
mount -t tmpfs none /run && mount -t tmpfs none /usr/share && mkdir /usr/share/misc &&
cp \"$0/pci.ids\" /usr/share/misc && mount -t tmpfs none /dev && cd \"$0\" && ulimit -l 64 &&
exec \"$@\"";

/// Runs the program, the first argument, with the arguments in each line of the file `lines`.
const RUN_LINES: &str = "\
n=0; while IFS= read -r line <&3; do
eval \"\\\"$0\\\" $line\" >$n.out 2>$n.err; echo $? >$n.status; n=$((n + 1)); done 3<lines";

/// The result of a command line.
#[derive(Debug)]
pub struct Outcome {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

pub struct Sandbox {
    dir: TempDir,
    /// The options of unshare(1) that make a mount namespace here.
    unshare: &'static [&'static str],
}

impl Sandbox {
    /// The made-up host; says so where mount namespaces cannot be made.
    pub fn new() -> Option<Self> {
        let mut ways = [&["--mount"][..], &["--user", "--map-root-user", "--mount"]].into_iter();
        let works = |way: &&[&str]| {
            let mut command = Command::new("unshare");
            command
                .args(*way)
                .args(["mount", "-t", "tmpfs", "none", "/run"]);
            let tried = command.output();
            tried.is_ok_and(|output| output.status.success())
        };
        let Some(unshare) = ways.find(works) else {
            skipped("no mount namespace can be made here");
            return None;
        };
        let dir = TempDir::new().unwrap();
        build(dir.as_path());
        Some(Self { dir, unshare })
    }

    /// Runs the program on the made-up host once for each line, whose arguments are as a shell
    /// takes them.
    pub fn run(&self, lines: &str) -> Vec<Outcome> {
        let dir = self.dir.as_path();
        write(
            &dir.join("lines"),
            format!("{}\n", lines.trim_end_matches('\n')),
        );
        let mut command = Command::new("unshare");
        command.args(self.unshare).args(["sh", "-c", ENTER]);
        command.arg(dir).args(["sh", "-c", RUN_LINES, PROGRAM]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let read = |number: usize, what| {
            let path = dir.join(format!("{number}.{what}"));
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let outcome = |number| Outcome {
            status: read(number, "status").trim().parse().unwrap(),
            stdout: read(number, "out"),
            stderr: read(number, "err"),
        };
        (0..lines.lines().count()).map(outcome).collect()
    }
}

struct Function {
    address: &'static str,
    class: &'static str,
    driver: Option<&'static str>,
    group: Option<u32>,
    config: Vec<u8>,
    /// Files of its directory in sysfs.
    files: &'static [(&'static str, &'static str)],
}

/// Lines of `resource`: BARs 0, 2 and 4 of the made-up function, and its expansion ROM.
const RESOURCE: &str = "\
0x00000000fe000000 0x00000000fe003fff 0x0000000000040200
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x000000000000c000 0x000000000000c01f 0x0000000000040101
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x000000a000000000 0x000000a00000ffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000fe100000 0x00000000fe101fff 0x0000000000046200
";

fn functions() -> [Function; 9] {
    let function = |address, class, driver, group| Function {
        address,
        class,
        driver,
        group,
        config: config_space(),
        files: &[
            ("reset_method", "flr bus\n"),
            ("power_state", "D0\n"),
            ("numa_node", "-1\n"),
            (
                "modalias",
                "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02\n",
            ),
        ],
    };
    [
        Function {
            config: bridge(),
            files: &[
                ("secondary_bus_number", "1\n"),
                ("reset_method", "flr bus\n"),
                ("power_state", "D0\n"),
                ("numa_node", "-1\n"),
            ],
            ..function("0000:00:1c.0", "0x060400", Some("pcieport"), Some(7))
        },
        Function {
            config: all_capabilities(),
            files: &[
                ("reset_method", "flr bus\n"),
                ("power_state", "D0\n"),
                ("numa_node", "0\n"),
                ("sriov_totalvfs", "4\n"),
                ("sriov_numvfs", "1\n"),
            ],
            ..function("0000:01:00.0", "0x010802", Some("nvme"), Some(7))
        },
        function("0000:01:00.1", "0x020000", Some("e1000e"), Some(7)),
        function("0000:02:00.0", "0x040300", Some("vfio-pci"), Some(8)),
        function("0000:02:00.1", "0x040300", Some("snd_hda_intel"), Some(8)),
        Function {
            files: &[("power_state", "D3hot\n"), ("vendor", "0x4321\n")],
            ..function("0000:03:00.0", "0x0c0330", None, None)
        },
        Function {
            files: &[
                ("reset_method", "flr bus\n"),
                ("sriov_totalvfs", "4\n"),
                ("sriov_numvfs", "0\n"),
            ],
            ..function("0000:04:00.0", "0x010802", Some("nvme"), Some(9))
        },
        function("0000:04:10.0", "0x010802", Some("vfio-pci"), Some(10)),
        Function {
            files: &[("resource", "")],
            ..function("0000:05:00.0", "0x030000", None, Some(11))
        },
    ]
}

/// A configuration space whose header is of type 1.
fn bridge() -> Vec<u8> {
    let mut config = config_space();
    put(&mut config, 0x0e, &[1]);
    config
}

fn build(root: &Path) {
    write(
        &root.join("cpuinfo"),
        "flags\t\t: vmx\naddress sizes\t: 40 bits physical, 48 bits virtual\n",
    );
    write(
        &root.join("pci.ids"),
        "1234  Made-up Devices\n\t5678  Function\n",
    );
    write(
        &root.join("iomem"),
        "00000000-00000fff : Reserved\nfe000000-fe003fff : PCI Bus 0000:01\n",
    );
    write(&root.join("rom"), "\u{55}\u{0}");
    write(&root.join("etc/mini-vmm/devices.toml"), NAMES);
    let sys = root.join("sys");
    write(&sys.join("firmware/acpi/tables/DMAR"), "");
    fs::create_dir_all(sys.join("class/iommu/dmar0")).unwrap();
    write(
        &sys.join("kernel/mm/transparent_hugepage/enabled"),
        "always [madvise] never\n",
    );
    for function in functions() {
        add(&sys, &function);
    }
    let home = sys.join("devices/pci0000:00");
    symlink(
        target("devices/pci0000:00/0000:01:00.0"),
        home.join("0000:04:10.0/physfn"),
    )
    .unwrap();
    symlink(
        target("devices/pci0000:00/0000:04:10.0"),
        home.join("0000:01:00.0/virtfn0"),
    )
    .unwrap();
    write(
        &sys.join("kernel/iommu_groups/11/reserved_regions"),
        "0x00000000ae000000 0x00000000afffffff direct\n",
    );
    let pci = "devices/pci0000:00/0000:01:00.0";
    add_mediated(&sys, pci, MEDIATED, "vfio-pci", Some(12));
    add_mediated(&sys, "devices/virtual/made-up", NOT_PCI, "vfio-ccw", None);
}

/// A path as it is inside the namespace.
fn target(below: &str) -> String {
    format!("/sys/{below}")
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn link(sys: &Path, name: &str, to: &str) {
    let path = sys.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target(to), path).unwrap();
}

fn add(sys: &Path, function: &Function) {
    let address = function.address;
    let home = format!("devices/pci0000:00/{address}");
    let file = |name: &str, content: &[u8]| write(&sys.join(&home).join(name), content);
    file("class", format!("{}\n", function.class).as_bytes());
    file("vendor", b"0x1234\n");
    file("device", b"0x5678\n");
    file("subsystem_vendor", b"0x89ab\n");
    file("subsystem_device", b"0xcdef\n");
    file(
        "modalias",
        b"pci:v00001234d00005678sv000089ABsd0000CDEFbc01sc08i02\n",
    );
    file("driver_override", b"(null)\n");
    file("resource", RESOURCE.as_bytes());
    file("config", &function.config);
    for (name, content) in function.files {
        file(name, content.as_bytes());
    }
    link(sys, &format!("bus/pci/devices/{address}"), &home);
    if let Some(driver) = function.driver {
        let at = format!("bus/pci/drivers/{driver}");
        fs::create_dir_all(sys.join(&at)).unwrap();
        link(sys, &format!("{home}/driver"), &at);
        if driver == "vfio-pci" {
            // Linux 6.1 without nodes for iommufd.
            fs::create_dir_all(sys.join(&home).join("vfio-dev/vfio0")).unwrap();
            fs::create_dir_all(sys.join("class/vfio-dev")).unwrap();
        }
    }
    if let Some(group) = function.group {
        let at = format!("kernel/iommu_groups/{group}");
        link(sys, &format!("{home}/iommu_group"), &at);
        link(sys, &format!("{at}/devices/{address}"), &home);
        write(&sys.join(at).join("reserved_regions"), "");
    }
}

/// A mediated device that is made of `parent`; a driver has the one that has a group.
fn add_mediated(sys: &Path, parent: &str, uuid: &str, api: &str, group: Option<u32>) {
    let (home, kind) = (
        format!("{parent}/{uuid}"),
        format!("{parent}/mdev_supported_types/made-up"),
    );
    write(&sys.join(&kind).join("device_api"), format!("{api}\n"));
    link(sys, &format!("{home}/mdev_type"), &kind);
    link(sys, &format!("bus/mdev/devices/{uuid}"), &home);
    if let Some(group) = group {
        let at = format!("kernel/iommu_groups/{group}");
        fs::create_dir_all(sys.join(&at).join("devices")).unwrap();
        link(sys, &format!("{home}/iommu_group"), &at);
        link(sys, &format!("{home}/driver"), "bus/mdev/drivers/made-up");
    }
}

/// A function with an interrupt pin, and with a capability of each ID that there is (PCI Code and
/// ID Assignment 1.11, 2 and 3).
fn all_capabilities() -> Vec<u8> {
    let mut config = config_space();
    put(&mut config, 0x3d, &[1]);
    // MSI with 8 messages, 64-bit addresses and masks; then VPD, a slot number, vendor-specific,
    // enhanced allocation, advanced features and an ID of the future.
    let standard = [
        (0xa0, [0x05, 0xc0, 0x86, 0x01]),
        (0xc0, [0x03, 0xc8, 0, 0]),
        (0xc8, [0x04, 0xcc, 0, 0]),
        (0xcc, [0x09, 0xdc, 0x10, 0]),
        (0xdc, [0x14, 0xe4, 0, 0]),
        (0xe4, [0x13, 0xec, 6, 3]),
        (0xec, [0x7f, 0, 0, 0]),
    ];
    put(&mut config, MSIX + 1, &[0xa0]);
    for (at, bytes) in standard {
        put(&mut config, at, &bytes);
    }
    // Version 1 of each, 64 bytes apart.
    let (mut at, first) = (SERIAL_NUMBER, 0x140);
    let mut id = 0x03;
    for (index, next_id) in (1..=0x2f).filter(|id| *id != 0x03).enumerate() {
        let next = first + 0x40 * index as u16;
        put(
            &mut config,
            at,
            &(u32::from(next) << 20 | 0x1_0000 | id).to_le_bytes(),
        );
        (at, id) = (next, next_id);
    }
    put(&mut config, at, &(0x1_0000 | id).to_le_bytes());
    config
}
