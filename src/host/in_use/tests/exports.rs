//! Disks that the kernel exports to other machines.

use super::{found, nvme, uses};

#[test]
fn a_disk_that_is_exported_to_other_machines() {
    let tree = nvme();
    tree.file("dev/nvme0n1", "").file("dev/nvme0n1p1", "");
    tree.file("dev/sda", "");
    tree.link("dev/disk/by-id/nvme-S1", "dev/nvme0n1");
    let namespace = "sys/kernel/config/nvmet/subsystems/shop/namespaces/1";
    let nvmet = |path: &str, enable: &str| {
        tree.file(&format!("{namespace}/device_path"), path);
        tree.file(&format!("{namespace}/enable"), enable);
    };
    nvmet("/dev/sda\n", "1\n");
    assert!(uses(&tree).is_empty());
    nvmet("/dev/disk/by-id/nvme-S1\n", "0\n");
    assert!(uses(&tree).is_empty());
    nvmet("/dev/disk/by-id/nvme-S1\n", "1\n");
    let all = found(&tree);
    let said = all[0].to_string();
    assert!(said.starts_with("/dev/nvme0n1 is exported"), "{said}");
    assert!(
        said.ends_with("nvmet/subsystems/shop/namespaces/1"),
        "{said}"
    );
    assert!(all[0].is_serious() && all.len() == 1);
    assert!(all[0].remedy().unwrap().ends_with("namespaces/1/enable'"));
    nvmet("/dev/sda\n", "1\n");
    let adapter = "sys/kernel/config/target/core/iblock_0";
    tree.file(&format!("{adapter}/hba_info"), "x\n");
    tree.file(&format!("{adapter}/disk/udev_path"), "/dev/nvme0n1p1\n");
    let said = uses(&tree);
    assert!(
        said[0].starts_with("/dev/nvme0n1p1 is exported"),
        "{said:?}"
    );
    assert!(found(&tree)[0].remedy().unwrap().contains("targetcli"));
}
