//! `host slurm` with a real slurmctld, two slurmd and munge on this machine. The devices are made
//! up, and their nodes are those of /dev/null.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use vmm_sys_util::tempdir::TempDir;

use crate::{PROGRAM, can_run, text_of, write};

/// Address, group and node of Slurm. The order of the groups is not that of their numbers.
const DEVICES: [(&str, u32, &str); 3] = [
    ("0000:01:00.0", 12, "n1"),
    ("0000:02:00.0", 7, "n1"),
    ("0000:03:00.0", 9, "n2"),
];

fn host(root: &Path) {
    fs::create_dir_all(root.join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    fs::create_dir_all(root.join("sys/class/vfio-dev")).unwrap();
    for (address, group, node) in DEVICES {
        let path = format!("devices/pci0000:00/{address}");
        let home = root.join("sys").join(&path);
        write(&home.join("class"), "0x010802\n");
        write(&home.join("modalias"), "pci:v00001B36d00000010\n");
        write(&home.join("reset"), "");
        write(&home.join("vfio-dev/vfio0/dev"), "511:0\n");
        fs::write(home.join("config"), [0; 64]).unwrap();
        let link = |name: String, to: String| {
            let name = root.join("sys").join(name);
            fs::create_dir_all(name.parent().unwrap()).unwrap();
            symlink(Path::new("/sys").join(to), name).unwrap();
        };
        let members = format!("kernel/iommu_groups/{group}");
        link(format!("bus/pci/devices/{address}"), path.clone());
        link(format!("{path}/driver"), "bus/pci/drivers/vfio-pci".into());
        link(format!("{path}/iommu_group"), members.clone());
        link(format!("{members}/devices/{address}"), path.clone());
        // The first line is all that `host slurm` reads of a rule.
        let rule = format!(
            "# mini-vmm: {{\"version\":1,\"device\":\"{address}\",\"path\":\"/{path}\",\
             \"modalias\":\"pci:v00001B36d00000010\",\"driver\":\"vfio-pci\",\
             \"module\":\"vfio-pci\"}}\n"
        );
        let name = format!("etc.{node}/05-mini-vmm-{address}.rules");
        write(&root.join(name), &rule);
    }
}

#[test]
fn jobs_have_the_devices_that_slurm_has_given_them() {
    if !can_run(&["slurmctld", "slurmd", "munged", "sbatch", "setpriv", "ip"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    host(dir.as_path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fleet/slurm.sh");
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--net",
        "--uts",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    command
        .args(["--mount-proc", "sh"])
        .arg(script)
        .arg(dir.as_path());
    let text = text_of(command.env("PROGRAM", PROGRAM).output().unwrap());
    println!("{text}");
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines
            .next()
            .unwrap_or_else(|| panic!("no {name}: {text}"))
            .trim()
            .to_owned()
    };
    assert_eq!(value("fourth:"), "PD");

    // Each job opens the node of the device that it was told of, and no other.
    let mut given = Vec::new();
    for job in text.split("job\n").skip(1).take(3) {
        let lines: Vec<_> = job.lines().take(4).collect();
        let [node, device, opens, "ready"] = lines[..] else {
            panic!("{lines:?}");
        };
        let known = DEVICES
            .iter()
            .find(|known| device == format!("device {}", known.0));
        let (address, group, on) = *known.unwrap_or_else(|| panic!("{device}"));
        assert_eq!(node, format!("node {on}"), "{address}");
        assert_eq!(opens, format!("opens {group}"), "{address}");
        given.push(address);
    }
    given.sort_unstable();
    assert_eq!(given, DEVICES.map(|known| known.0));
    let owners = value("owners while they run:");
    let users = owners.split(' ').skip(1).step_by(3);
    let mut users: Vec<_> = users.collect();
    users.sort_unstable();
    assert_eq!(users, ["1", "2", "65534"], "{owners}");
    assert_eq!(value("resets:"), "");

    let all_roots = "12 0 600 7 0 600 9 0 600";
    assert_eq!(value("the fourth has the device of the first:"), "1");
    assert_eq!(value("owners at the end:"), all_roots);
    assert_eq!(value("resets at the end:"), "1 1 1");
    let of = |prefix: &str| -> Vec<&str> {
        let lines = text.lines();
        lines.filter_map(|line| line.strip_prefix(prefix)).collect()
    };
    let both = ["device 0000:01:00.0 0000:02:00.0", "opens 12", "opens 7"];
    assert_eq!(of("both: "), both);
    assert_eq!(of("none: "), ["device "]);
    assert_eq!(of("text of a user: "), ["0", "1"]);
    let mut tasks = of("task: ");
    tasks.sort_unstable();
    assert_eq!(tasks, DEVICES.map(|known| format!("device {}", known.0)));
    assert_eq!(value("owners after the array:"), all_roots);
    assert_eq!(value("owners after slurmd was killed:"), all_roots);
    assert_eq!(value("owners after a wrong node:"), all_roots);
    assert!(!text.contains("the job ran"), "{text}");
}
