mod prolog;

use super::*;
use crate::persist::Persistent;
use crate::tree::Tree;

/// Two sockets of two cores with two threads; a device at each socket, and one without a rule.
fn host() -> Tree {
    let tree = Tree::new();
    tree.device("0000:01:00.0", "0x010802", Some("vfio-pci"), Some(12));
    tree.device("0000:02:00.0", "0x010802", Some("vfio-pci"), Some(7));
    tree.device("0000:02:00.1", "0x010802", Some("vfio-pci"), Some(7));
    tree.device("0000:03:00.0", "0x010802", Some("vfio-pci"), Some(9));
    tree.device("0000:04:00.0", "0x010802", Some("nvme"), Some(10));
    let system = "sys/devices/system";
    tree.file(&format!("{system}/cpu/online"), "0-7\n");
    tree.file(&format!("{system}/node/online"), "0-1\n");
    // Even CPUs are in socket 0, and CPU n + 4 is the second thread of CPU n.
    tree.file(&format!("{system}/node/node0/cpulist"), "0,2,4,6\n");
    tree.file(&format!("{system}/node/node1/cpulist"), "1,3,5,7\n");
    for cpu in 0..8 {
        let topology = format!("{system}/cpu/cpu{cpu}/topology");
        tree.file(
            &format!("{topology}/physical_package_id"),
            &format!("{}\n", cpu % 2),
        );
        let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
        tree.file(&format!("{topology}/thread_siblings_list"), &siblings);
    }
    for (bdf, local) in [
        ("0000:01:00.0", "1,3,5,7"),
        ("0000:02:00.0", "0,2,4,6"),
        ("0000:02:00.1", "0,2,4,6"),
        ("0000:04:00.0", "0-7"),
    ] {
        tree.file(&format!("{}/local_cpulist", Tree::home(bdf)), local);
        tree.file(&format!("{}/modalias", Tree::home(bdf)), "pci:v1\n");
        let device = tree.find(bdf);
        let rule = Persistent::of(&tree.sysfs(), &device, "vfio-pci", "vfio-pci");
        for change in Files::of(&tree.paths()).changes(&[rule]) {
            change.make().unwrap();
        }
    }
    tree
}

fn written(tree: &Tree, interface: Interface) -> Result<Vec<File>, SlurmError> {
    files(
        &tree.sysfs(),
        &tree.paths(),
        interface,
        "n1",
        Path::new("/etc/slurm/vfio"),
    )
}

fn text(files: &[File], name: &str) -> String {
    let file = files.iter().find(|file| file.name == name);
    file.unwrap_or_else(|| panic!("{name}")).text.clone()
}

#[test]
fn a_resource_for_each_group_with_its_cores_in_slurms_numbers() {
    let files = written(&host(), Interface::Container).unwrap();
    // CPUs 0, 2, 4, 6 are cores 0 and 1; CPUs 1, 3, 5, 7 are cores 2 and 3.
    assert_eq!(
        text(&files, "gres.conf.n1"),
        "# Lines for gres.conf. Their order is that of the indices.\n\
         NodeName=n1 Name=vfio File=/dev/vfio/12 Cores=2-3\n\
         NodeName=n1 Name=vfio File=/dev/vfio/7 Cores=0-1\n"
    );
    assert_eq!(
        text(&files, "devices.n1"),
        "0 /dev/vfio/12 0000:01:00.0\n1 /dev/vfio/7 0000:02:00.0 0000:02:00.1\n"
    );
    let conf = text(&files, "slurm.conf.vfio");
    assert!(conf.contains("\nNodeName=n1 Gres=vfio:2\n"), "{conf}");
    assert!(
        conf.contains("\nProlog=/etc/slurm/vfio/prolog.sh\n"),
        "{conf}"
    );
    assert!(text(&files, "prolog.sh").contains("\nfolder=/etc/slurm/vfio\n"));
    assert!(files.iter().all(|file| !file.text.contains("@FOLDER")));
}

#[test]
fn a_resource_for_each_device_node() {
    let files = written(&host(), Interface::Iommufd).unwrap();
    let gres = text(&files, "gres.conf.n1");
    assert!(gres.contains("File=/dev/vfio/devices/vfio0 "), "{gres}");
}

#[test]
fn only_what_is_bound_at_each_boot_and_ready() {
    let tree = host();
    for bdf in ["0000:01:00.0", "0000:02:00.0", "0000:02:00.1"] {
        std::fs::remove_file(Files::of(&tree.paths()).rule(bdf.parse().unwrap())).unwrap();
    }
    // 0000:03:00.0 is bound for now, and nvme has 0000:04:00.0.
    let error = written(&tree, Interface::Container).unwrap_err();
    assert!(matches!(error, SlurmError::NoDevice), "{error}");
}

#[test]
fn a_job_has_all_of_a_group_and_nothing_that_is_a_users() {
    let tree = host();
    // Bound for now, in the group of 0000:02:00.0: who has the group's node has this one too.
    std::fs::remove_file(Files::of(&tree.paths()).rule("0000:02:00.1".parse().unwrap())).unwrap();
    let map = text(&written(&tree, Interface::Container).unwrap(), "devices.n1");
    let both = "0 /dev/vfio/12 0000:01:00.0\n1 /dev/vfio/7 0000:02:00.0 0000:02:00.1\n";
    assert_eq!(map, both);

    for (bdf, all) in [("0000:01:00.0", false), ("0000:02:00.0", true)] {
        let mut rule = Persistent::of(&tree.sysfs(), &tree.find(bdf), "vfio-pci", "vfio-pci");
        rule.user = Some(1000);
        for change in Files::of(&tree.paths()).changes(&[rule]) {
            change.make().unwrap();
        }
        if all {
            let error = written(&tree, Interface::Container).unwrap_err();
            assert!(matches!(error, SlurmError::NoDevice), "{error}");
            assert!(error.hint().contains("without --user"));
            continue;
        }
        let files = written(&tree, Interface::Container).unwrap();
        let gres = text(&files, "gres.conf.n1");
        assert!(
            gres.contains("\n# 0000:01:00.0 and its group are left out"),
            "{gres}"
        );
        assert!(!gres.contains("/dev/vfio/12"), "{gres}");
        let map = text(&files, "devices.n1");
        assert_eq!(map, "0 /dev/vfio/7 0000:02:00.0 0000:02:00.1\n");
    }
}

#[test]
fn names_that_a_shell_reads_otherwise_are_refused() {
    let tree = host();
    for (node, folder) in [
        ("n1;reboot", "/etc/slurm"),
        ("", "/etc/slurm"),
        ("n[1-2]", "/etc/slurm"),
        ("n1", "etc/slurm"),
        ("n1", "/etc/$(x)"),
        ("n1", "/a b"),
    ] {
        let path = Path::new(folder);
        let refused = files(
            &tree.sysfs(),
            &tree.paths(),
            Interface::Container,
            node,
            path,
        );
        assert!(refused.is_err(), "{node} {folder}");
    }
}

#[test]
fn the_scripts_are_a_shells() {
    for file in written(&host(), Interface::Container).unwrap() {
        if file.mode == 0o755 {
            let mut shell = std::process::Command::new("sh");
            let status = shell.args(["-n", "-c", &file.text]).status().unwrap();
            assert!(status.success(), "{}", file.name);
        }
    }
}

#[test]
fn cores_that_are_all_alike_are_not_named() {
    let tree = host();
    let all = topology::read(&tree.sysfs());
    assert_eq!(all.len(), 4);
    for (local, cores) in [
        ("0-7", ""),
        ("", ""),
        ("0,4", "0"),
        ("0,2,3,4,6,7", "0-1,3"),
        // Half a core is not near.
        ("0", ""),
    ] {
        assert_eq!(topology::cores(&all, local), cores, "{local}");
    }
    assert_eq!(topology::read(&Tree::new().sysfs()), []);
}
