use super::*;
use crate::style::{Style, WIDTH};
use crate::tree::Tree;

const NAMES: &str = "1b36  Red Hat, Inc.\n\
    \t0010  QEMU NVM Express Controller with a name that takes all of the room\n";

fn host() -> Tree {
    let tree = Tree::new();
    tree.device("0000:00:05.0", "0x010802", Some("vfio-pci"), Some(1));
    tree.device("0000:00:07.0", "0x010802", Some("nvme"), Some(4));
    tree.device("0000:00:07.1", "0x010802", None, Some(4));
    tree.device("0000:00:07.2", "0x020000", Some("vfio-pci"), Some(4));
    tree.device("0000:00:1c.0", "0x060400", Some("pcieport"), Some(4));
    tree.device("0000:00:1f.0", "0x060100", None, None);
    tree.device("0000:00:1f.3", "0x0c0500", None, None);
    let home = Tree::home("0000:00:05.0");
    for (name, text) in [
        ("vendor", "0x1b36"),
        ("device", "0x0010"),
        ("reset_method", "flr bus"),
        (
            "resource",
            "0x10000 0x13fff 0x140204\n0x0 0x0 0x0\n0x1000 0x101f 0x40101\n",
        ),
        ("numa_node", "0"),
        ("sriov_totalvfs", "7"),
        ("sriov_numvfs", "2"),
    ] {
        tree.file(&format!("{home}/{name}"), text);
    }
    tree
}

fn items(tree: &Tree, all: bool) -> List {
    list(
        &tree.sysfs(),
        &Records::at(tree.paths().proc),
        &Names::parse(NAMES.as_bytes()),
        all,
    )
    .unwrap()
}

#[test]
fn groups_are_drawn() {
    let text = to_text(&items(&host(), false), Style::default());
    let expected = "\
GROUP   DEVICE
    1   0000:00:05.0  NVMe controller: Red Hat, Inc. QEMU NVM Expre… [1b36:0010]
          ready
          driver vfio-pci · reset flr bus · BARs 16K, 32 ports · NUMA node 0
          2 of 7 virtual functions
    4 ┌ 0000:00:07.0  NVMe controller [0000:0000]
      │   bound to nvme · group shared with 0000:00:07.1, 0000:00:07.2
      │   driver nvme · no reset
      ├ 0000:00:07.1  NVMe controller [0000:0000]
      │   bound to no driver · group shared with 0000:00:07.0, 0000:00:07.2
      │   no reset
      └ 0000:00:07.2  Ethernet controller [0000:0000]
          its group is held: 0000:00:07.0 is bound to nvme
          group shared with 0000:00:07.0, 0000:00:07.1
          driver vfio-pci · no reset
";
    assert_eq!(text, expected);
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
}

#[test]
fn all_has_bridges_and_what_is_in_no_group() {
    let text = to_text(&items(&host(), true), Style::default());
    let tail = "\
      └ 0000:00:1c.0  PCI bridge [0000:0000]
          a bridge, which the host keeps
          driver pcieport · no reset
    -   0000:00:1f.0  ISA bridge [0000:0000]
          in no IOMMU group
          no reset
    -   0000:00:1f.3  SMBus [0000:0000]
          in no IOMMU group
          no reset
";
    assert!(text.ends_with(tail), "{text}");
}

/// The header type says what a bridge is, and the kernel which driver is VFIO's.
#[test]
fn names_and_classes_do_not_decide() {
    let tree = Tree::new();
    tree.device("0000:01:00.0", "0x068000", Some("vfio-pci"), Some(1));
    tree.device("0000:02:00.0", "0x060400", Some("vfio-x"), Some(2));
    tree.header("0000:02:00.0", 0);
    tree.device("0000:03:00.0", "0x068000", Some("pcieport"), Some(3));
    tree.header("0000:03:00.0", 1);
    tree.device("0000:04:00.0", "0x030000", Some("gpu"), Some(4));
    tree.registered("0000:04:00.0");
    tree.device("0000:05:00.0", "0x010802", Some("vfio-pci"), Some(5));
    tree.file("sys/kernel/iommu_groups/5/name", "vfio-noiommu\n");
    let states: Vec<_> = items(&tree, true)
        .items
        .into_iter()
        .map(|i| i.state)
        .collect();
    assert_eq!(
        states,
        [
            State::Ready,
            State::Bound("vfio-x".into()),
            State::Bridge,
            State::Ready,
            State::NoGroup
        ]
    );
    assert_eq!(items(&tree, false).items.len(), 4);
    let text = to_text(&items(&tree, true), Style::default());
    assert!(
        text.contains("no-IOMMU mode, which isolates nothing"),
        "{text}"
    );
}

#[test]
fn a_host_without_groups() {
    let tree = Tree::new();
    tree.device("0000:00:05.0", "0x010802", Some("nvme"), None);
    assert!(to_text(&items(&tree, false), Style::default()).contains("host check"));
    assert_eq!(items(&tree, true).items[0].state, State::NoGroup);
}

#[test]
fn large_groups_are_named_in_part() {
    let tree = Tree::new();
    for function in 0..6 {
        let bdf = format!("0000:00:07.{function}");
        tree.device(&bdf, "0x010802", Some("vfio-pci"), Some(4));
    }
    let text = to_text(&items(&tree, false), Style::default());
    let shared = "ready · group shared with 0000:00:07.1, 0000:00:07.2, 0000:00:07.3 and 2\n";
    let named =
        "ready\n      │   group shared with 0000:00:07.1, 0000:00:07.2, 0000:00:07.3 and 2 more\n";
    assert!(text.contains(named) && !text.contains(shared), "{text}");
}

#[test]
fn programs_read_the_same() {
    let json: serde_json::Value =
        serde_json::from_str(&to_json(&items(&host(), true)).unwrap()).unwrap();
    let devices = json["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 7);
    let first = &devices[0];
    for (field, value) in [
        ("address", serde_json::json!("0000:00:05.0")),
        ("group", 1.into()),
        ("class", "010802".into()),
        ("class_name", "NVMe controller".into()),
        ("vendor_id", "1b36".into()),
        ("device_id", "0010".into()),
        ("vendor", "Red Hat, Inc.".into()),
        ("driver", "vfio-pci".into()),
        ("reset_methods", serde_json::json!(["flr", "bus"])),
        ("numa_node", 0.into()),
        ("rom_size", serde_json::Value::Null),
        ("physical_function", serde_json::Value::Null),
        (
            "virtual_functions",
            serde_json::json!({"total": 7, "enabled": 2}),
        ),
        ("state", "ready".into()),
        ("held_by", serde_json::json!([])),
        ("shared_with", serde_json::json!([])),
        (
            "bars",
            serde_json::json!([
                {"index": 0, "space": "memory64", "prefetchable": false, "size": 16384},
                {"index": 2, "space": "io", "prefetchable": false, "size": 32},
            ]),
        ),
    ] {
        assert_eq!(first[field], value, "{field}");
    }
    let states: Vec<_> = devices
        .iter()
        .map(|d| d["state"].as_str().unwrap())
        .collect();
    assert_eq!(
        states,
        [
            "ready", "bound", "unbound", "blocked", "bridge", "no-group", "no-group"
        ]
    );
    assert_eq!(devices[3]["held_by"], serde_json::json!(["0000:00:07.0"]));
}

const MEDIATED: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const PORTS: &str = "c2e88431-8a6b-4e0d-9b5e-3f1a2b3c4d5e";

/// A part of the controller, a device of a parent that is not a PCI device, and one without a
/// driver that does not look like a PCI function.
fn with_mediated() -> Tree {
    let tree = host();
    let add = |uuid: &str, home: &str, api: &str, group: Option<u32>| {
        let kind = format!("{home}/mdev_supported_types/shares-{}", &api[5..].trim());
        tree.file(&format!("{kind}/device_api"), api);
        tree.directory(&format!("{home}/{uuid}"));
        tree.link(&format!("{home}/{uuid}/mdev_type"), &kind);
        tree.link(
            &format!("sys/bus/mdev/devices/{uuid}"),
            &format!("{home}/{uuid}"),
        );
        if let Some(group) = group {
            let groups = format!("sys/kernel/iommu_groups/{group}");
            tree.link(&format!("{home}/{uuid}/iommu_group"), &groups);
            tree.link(
                &format!("{home}/{uuid}/driver"),
                "sys/bus/mdev/drivers/shares",
            );
        }
    };
    add(
        MEDIATED,
        &Tree::home("0000:00:05.0"),
        "vfio-pci\n",
        Some(12),
    );
    add(
        PORTS,
        "sys/devices/virtual/mtty/mtty",
        "vfio-pci\n",
        Some(13),
    );
    add(
        &PORTS.replace('c', "d"),
        "sys/devices/ap/matrix",
        "vfio-ap\n",
        None,
    );
    tree.directory("sys/bus/mdev/devices/no-uuid");
    tree
}

#[test]
fn mediated_devices_are_below_their_parents() {
    let text = to_text(&items(&with_mediated(), false), Style::default());
    let below = "\
          2 of 7 virtual functions
          mediated device 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 · IOMMU group 12
          ready · type shares-pci · driver shares · used as vfio-pci
    4 ┌ 0000:00:07.0  NVMe controller [0000:0000]
";
    assert!(text.contains(below), "{text}");
    let tail = "\
   13   c2e88431-8a6b-4e0d-9b5e-3f1a2b3c4d5e  mediated device of mtty
          ready
          type shares-pci · driver shares · used as vfio-pci
    -   d2e88431-8a6b-4e0d-9b5e-3f1a2b3d4d5e  mediated device of matrix
          does not look like a PCI function
          type shares-ap · used as vfio-ap
";
    assert!(text.ends_with(tail), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
}

#[test]
fn programs_read_of_mediated_devices() {
    let json = to_json(&items(&with_mediated(), false)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let listed = serde_json::json!([{
        "uuid": MEDIATED, "parent": "0000:00:05.0", "type": "shares-pci", "api": "vfio-pci",
        "group": 12, "driver": "shares", "state": "ready",
    }]);
    assert_eq!(json["devices"][0]["mediated_devices"], listed);
    assert_eq!(
        json["devices"][1]["mediated_devices"],
        serde_json::json!([])
    );
    let others = json["mediated_devices"].as_array().unwrap();
    let states: Vec<_> = others
        .iter()
        .map(|m| m["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["ready", "no-pci"]);
    assert_eq!(others[0]["parent"], "mtty");
}
