mod exports;

use super::*;
use crate::tree::Tree;

const BDF: &str = "0000:01:00.0";

fn nvme() -> Tree {
    let tree = Tree::new();
    tree.device(BDF, "0x010802", Some("nvme"), Some(1));
    let home = format!("{}/nvme/nvme0", Tree::home(BDF));
    tree.disk(&home, "nvme0n1", "259:0", &[]);
    tree.disk(&home, "nvme0n1p1", "259:1", &[]);
    // A disk of another device.
    tree.disk(&Tree::home("0000:02:00.0"), "sda", "8:0", &[]);
    tree.file("proc/swaps", "Filename Type Size Used Priority\n");
    mounts(&tree, "30 1 0:5 / /dev rw shared:2 - devtmpfs udev rw");
    tree
}

fn mounts(tree: &Tree, lines: &str) {
    tree.file("proc/self/mountinfo", lines);
}

fn card() -> Tree {
    let tree = Tree::new();
    tree.device(BDF, "0x020000", Some("e1000e"), Some(1));
    let dir = format!("{}/net/eth0", Tree::home(BDF));
    tree.file(&format!("{dir}/flags"), "0x1002\n");
    tree.link("sys/class/net/eth0", &dir);
    tree.file("sys/class/net/lo/flags", "0x9\n");
    tree
}

fn uses(tree: &Tree) -> Vec<String> {
    found(tree).iter().map(Use::to_string).collect()
}

fn found(tree: &Tree) -> Vec<Use> {
    in_use(&tree.sysfs(), &tree.paths(), &tree.find(BDF)).unwrap()
}

#[test]
fn a_device_that_nobody_uses() {
    assert!(uses(&nvme()).is_empty());
    assert!(uses(&card()).is_empty());
}

#[test]
fn mounts_by_number_and_by_name() {
    let tree = nvme();
    mounts(
        &tree,
        "31 1 259:1 / /srv/my\\040data rw - ext4 /dev/root rw\n\
         32 1 8:0 / / rw shared:1 - ext4 /dev/sda rw\n",
    );
    assert_eq!(uses(&tree), ["/dev/nvme0n1p1 is mounted at /srv/my data"]);
    // A btrfs mount has a device number of its own, and its source is the first of its disks.
    mounts(&tree, "31 1 0:44 / /mnt rw - btrfs /dev/nvme0n1 rw");
    assert_eq!(uses(&tree), ["/dev/nvme0n1 is mounted at /mnt"]);
    // Only sysfs shows the second disk of a file system.
    mounts(&tree, "31 1 0:44 / /mnt rw - btrfs /dev/sda rw");
    tree.directory("sys/fs/btrfs/1234/devices/nvme0n1p1");
    tree.directory("sys/fs/btrfs/1234/devices/sda");
    tree.directory("sys/fs/btrfs/features");
    assert_eq!(
        uses(&tree),
        ["/dev/nvme0n1p1 is used by a program or a pool"]
    );
    assert!(found(&tree).iter().all(Use::is_serious));
}

#[test]
fn mounts_of_the_first_process_count() {
    let tree = nvme();
    tree.file("proc/1/mountinfo", "31 1 259:0 / /a rw - ext4 /dev/x rw");
    assert_eq!(uses(&tree), ["/dev/nvme0n1 is mounted at /a"]);
}

#[test]
fn a_member_of_a_raid() {
    let tree = Tree::new();
    tree.device(BDF, "0x010601", Some("ahci"), Some(1));
    let home = format!("{}/ata1/host0", Tree::home(BDF));
    tree.disk(&home, "sdb", "8:16", &["md127"]);
    tree.disk("sys/devices/virtual", "md127", "9:127", &[]);
    assert_eq!(uses(&tree), ["/dev/sdb is part of /dev/md127"]);
    let remedy = found(&tree)[0].remedy();
    assert_eq!(remedy.unwrap(), "as root: mdadm --stop /dev/md127");
}

#[test]
fn what_is_stacked_on_a_disk() {
    let tree = Tree::new();
    tree.device(BDF, "0x010601", Some("ahci"), Some(1));
    let home = format!("{}/ata1/host0", Tree::home(BDF));
    tree.disk(&home, "sdb", "8:16", &[]);
    tree.disk(&home, "sdb2", "8:18", &["dm-0"]);
    tree.disk("sys/devices/virtual", "dm-0", "254:0", &["dm-1"]);
    tree.disk("sys/devices/virtual", "dm-1", "254:1", &[]);
    tree.file("sys/devices/virtual/block/dm-1/dm/name", "vg-root\n");
    assert_eq!(
        uses(&tree),
        [
            "/dev/dm-0 is part of /dev/dm-1",
            "/dev/sdb2 is part of /dev/dm-0"
        ]
    );
    let remedy = found(&tree)[0].remedy();
    assert_eq!(remedy.unwrap(), "as root: dmsetup remove /dev/dm-1");
    mounts(&tree, "31 1 254:1 / / rw - ext4 /dev/mapper/vg-root rw");
    let all = found(&tree);
    assert_eq!(all[0].to_string(), "/dev/dm-1 is mounted at /");
    assert_eq!(all[0].remedy(), None);
    let swap = "Filename Type Size\n/dev/mapper/vg-root partition 9 0 -2\n/swapfile file 1 0 -3\n";
    tree.file("proc/swaps", swap);
    mounts(&tree, "");
    assert!(uses(&tree).contains(&"/dev/dm-1 is swap space".to_owned()));
}

/// A process has a disk open without O_EXCL: an exclusive open of the disk still succeeds.
#[test]
fn a_disk_that_a_process_has_open() {
    let tree = nvme();
    tree.file("dev/nvme0n1", "").file("dev/nvme0n1p1", "");
    tree.file("proc/4711/comm", "postgres\n");
    tree.link("proc/4711/fd/3", "dev/null");
    assert!(uses(&tree).is_empty());
    tree.link("proc/4711/fd/4", "dev/nvme0n1p1");
    tree.link("proc/4711/fd/5", "dev/nvme0n1p1");
    // The disk of another device.
    tree.link("proc/4711/fd/6", "dev/sda");
    assert_eq!(
        uses(&tree),
        ["postgres (process 4711) has /dev/nvme0n1p1 open"]
    );
    let all = found(&tree);
    assert!(all[0].is_serious());
    assert!(all[0].remedy().unwrap().contains("ps -p 4711"));
}

#[test]
fn a_loop_device_on_a_disk() {
    let tree = nvme();
    tree.disk("sys/devices/virtual", "loop0", "7:0", &[]);
    tree.disk("sys/devices/virtual", "loop1", "7:1", &[]);
    let backing = |of: &str, file: &str| {
        let dir = format!("sys/devices/virtual/block/{of}/loop/backing_file");
        tree.file(&dir, &format!("{file}\n"));
    };
    backing("loop0", "/dev/sda");
    backing("loop1", "/srv/dev/nvme0n1");
    assert!(uses(&tree).is_empty());
    backing("loop1", "/dev/nvme0n1p1");
    assert_eq!(uses(&tree), ["/dev/nvme0n1p1 is part of /dev/loop1"]);
    let remedy = found(&tree)[0].remedy();
    assert_eq!(remedy.unwrap(), "as root: losetup -d /dev/loop1");
    mounts(&tree, "31 1 7:1 / /mnt rw - ext4 /dev/loop1 rw");
    assert_eq!(uses(&tree), ["/dev/loop1 is mounted at /mnt"]);
    // A process counts too if it has open a device that is stacked on the disk.
    mounts(&tree, "");
    tree.file("proc/9/comm", "qemu\n");
    tree.link("proc/9/fd/3", "dev/loop1");
    assert!(uses(&tree).contains(&"qemu (process 9) has /dev/loop1 open".to_owned()));
}

#[test]
fn a_namespace_of_several_controllers() {
    let tree = Tree::new();
    tree.device(BDF, "0x010802", Some("nvme"), Some(1));
    let subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0";
    let controller = format!("{}/nvme/nvme0", Tree::home(BDF));
    tree.directory(&controller);
    tree.link(&format!("{subsystem}/nvme0"), &controller);
    tree.link("sys/class/nvme-subsystem/nvme-subsys0", subsystem);
    tree.disk(subsystem, "nvme0n1", "259:2", &[]);
    mounts(&tree, "31 1 259:2 / /mnt rw - ext4 /dev/nvme0n1 rw");
    assert_eq!(uses(&tree), ["/dev/nvme0n1 is mounted at /mnt"]);
}

#[test]
fn interfaces_up_addressed_and_enslaved() {
    let tree = card();
    let flags = format!("{}/net/eth0/flags", Tree::home(BDF));
    tree.file(&flags, "0x1003\n");
    assert_eq!(uses(&tree), ["network interface eth0 is up"]);
    assert!(!found(&tree)[0].is_serious());

    tree.address("eth0", "fe80::5054:ff:fe12:3456");
    assert!(!found(&tree)[0].is_serious());
    tree.address("eth0", "2001:db8::7");
    assert_eq!(
        uses(&tree),
        ["network interface eth0 has the address 2001:db8::7"]
    );

    // The kernel has no routes to the addresses of an interface that is down.
    tree.no_addresses()
        .address("eth1", "10.0.0.9")
        .address("eth0", "192.168.7.5");
    tree.file(&flags, "0x1002\n");
    assert_eq!(
        uses(&tree),
        ["network interface eth0 has the address 192.168.7.5"]
    );
    assert!(found(&tree)[0].is_serious());
    tree.file(&flags, "0x1003\n");

    let header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
    // 192.168.7.0/24 in little-endian order; another interface has the default route.
    let routes = "eth0 0007A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
                  eth1 00000000 0100000A 0003 0 0 0 00000000 0 0 0\n";
    tree.file("proc/net/route", &format!("{header}{routes}"));
    let Use::Interface {
        addresses,
        default_route,
        ..
    } = &found(&tree)[0]
    else {
        panic!("{:?}", found(&tree));
    };
    assert_eq!(
        (addresses.as_slice(), *default_route),
        (&["192.168.7.5".to_owned()][..], false)
    );
    assert!(
        found(&tree)[0]
            .remedy()
            .unwrap()
            .contains("ip addr flush dev eth0")
    );

    tree.file(
        "proc/net/route",
        &format!("{header}{}", routes.replace("eth1", "eth0")),
    );
    assert_eq!(
        uses(&tree),
        ["network interface eth0 has the default route"]
    );

    // The address belongs to a VLAN on top of the interface. A loop of links must not make the
    // search endless.
    let vlan = "sys/devices/virtual/net/eth0.7";
    let home = format!("{}/net/eth0", Tree::home(BDF));
    tree.link(&format!("{home}/upper_eth0.7"), vlan);
    tree.link("sys/class/net/eth0.7", vlan);
    tree.link(&format!("{vlan}/upper_eth0"), &home);
    tree.file(&format!("{vlan}/flags"), "0x1003\n");
    tree.file("proc/net/route", header);
    tree.no_addresses().address("eth0.7", "192.168.7.5");
    assert_eq!(
        uses(&tree),
        [
            "network interface eth0 is up",
            "network interface eth0.7 has the address 192.168.7.5"
        ]
    );
    tree.file(&format!("{vlan}/flags"), "0x1002\n");

    tree.no_addresses();
    tree.file(&flags, "0x1002\n");
    let master = format!("{}/net/eth0/master", Tree::home(BDF));
    tree.link(&master, "sys/devices/virtual/net/br0");
    assert_eq!(uses(&tree), ["network interface eth0 is part of br0"]);
}

#[test]
fn ipv6_alone_has_a_default_route() {
    let tree = card();
    tree.file(&format!("{}/net/eth0/flags", Tree::home(BDF)), "0x1003\n");
    let zero = "0".repeat(32);
    let route = |interface: &str| {
        format!("{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000003 {interface}\n")
    };
    tree.file("proc/net/ipv6_route", &route("lo"));
    assert!(!found(&tree)[0].is_serious());
    tree.file("proc/net/ipv6_route", &route("eth0"));
    assert!(found(&tree)[0].is_serious());
}

#[test]
fn the_boot_display() {
    let tree = Tree::new();
    tree.device(BDF, "0x030000", Some("bochs-drm"), Some(1));
    let file = format!("{}/boot_vga", Tree::home(BDF));
    tree.file(&file, "0\n");
    assert!(uses(&tree).is_empty());
    tree.file(&file, "1\n");
    assert_eq!(
        uses(&tree),
        ["it is the display that the firmware started with"]
    );
}

#[test]
fn escapes_in_mount_points() {
    for (text, plain) in [
        ("a\\040b", "a b"),
        ("\\", "\\"),
        ("\\04", "\\04"),
        ("\\999x", "\\999x"),
    ] {
        let tree = nvme();
        mounts(&tree, &format!("31 1 259:0 / /{text} rw - ext4 /dev/x rw"));
        assert_eq!(
            uses(&tree),
            [format!("/dev/nvme0n1 is mounted at /{plain}")]
        );
    }
}

/// Adds a member of a class below the device, and returns its directory.
fn member(tree: &Tree, class: &str, name: &str) -> String {
    let dir = format!("{}/x/{class}/{name}", Tree::home(BDF));
    tree.directory(&dir);
    tree.link(&format!("sys/class/{class}/{name}"), &dir);
    dir
}

/// The only use of the device is this one, and another device does not have it.
fn plays(make: impl Fn(&Tree), says: &str, remedy: &str) {
    let tree = nvme();
    make(&tree);
    assert_eq!(uses(&tree), [says]);
    let all = found(&tree);
    assert!(all[0].is_serious());
    let said = all[0].remedy().unwrap_or_default();
    assert!(said.contains(remedy), "{says}: {said}");
    tree.device("0000:02:00.0", "0x030000", None, Some(2));
    let other = tree.find("0000:02:00.0");
    let other = in_use(&tree.sysfs(), &tree.paths(), &other).unwrap();
    assert!(
        other.iter().all(|used| used.to_string() != says),
        "{other:?}"
    );
}

#[test]
fn roles_at_the_console() {
    plays(
        |tree| {
            member(tree, "tty", "ttyS4");
            tree.file("sys/class/tty/console/active", "tty0 ttyS4\n");
        },
        "ttyS4 is a console of the kernel",
        "console=",
    );
    plays(
        |tree| {
            member(tree, "graphics", "fb0");
            tree.file("sys/class/vtconsole/vtcon1/bind", "1\n");
            tree.file(
                "sys/class/vtconsole/vtcon1/name",
                "(M) frame buffer device\n",
            );
        },
        "fb0 is a console of the kernel",
        "console=",
    );
    plays(
        |tree| {
            let dir = member(tree, "input", "input3");
            tree.file(&format!("{dir}/name"), "Made-up Keys\n");
            // KEY_SPACE is bit 57 of the last word.
            tree.file(&format!("{dir}/capabilities/key"), "1 0 200000000000000\n");
        },
        "the keyboard Made-up Keys is attached to it",
        "ssh",
    );
    plays(
        |tree| {
            let dir = member(tree, "input", "input4");
            // BTN_LEFT is bit 16 of the fifth word.
            tree.file(&format!("{dir}/capabilities/key"), "10000 0 0 0 0\n");
        },
        "the mouse input4 is attached to it",
        "ssh",
    );
    plays(
        |tree| {
            let dir = member(tree, "drm", "card0-HDMI-A-1");
            tree.file(&format!("{dir}/status"), "connected\n");
            tree.file(&format!("{dir}/enabled"), "enabled\n");
        },
        "the screen at card0-HDMI-A-1 shows a picture",
        "ssh",
    );
}

#[test]
fn roles_without_a_screen() {
    plays(
        |tree| {
            member(tree, "sound", "card2");
            let status = "state: RUNNING\nowner_pid   : 77\ntrigger_time: 1\n";
            tree.file("proc/asound/card2/pcm0p/sub0/status", status);
        },
        "the sound stream card2/pcm0p is opened by process 77 (running)",
        "ps -p 77",
    );
    plays(
        |tree| {
            let dir = member(tree, "watchdog", "watchdog0");
            tree.file(&format!("{dir}/state"), "active\n");
        },
        "the watchdog watchdog0 runs",
        "/dev/watchdog0",
    );
    plays(
        |tree| {
            let dir = member(tree, "rtc", "rtc1");
            tree.file(&format!("{dir}/hctosys"), "1\n");
        },
        "rtc1 is the clock that sets the host's time",
        "",
    );
    plays(
        |tree| {
            member(tree, "tpm", "tpm0");
        },
        "tpm0 is a TPM of the host",
        "",
    );
}

/// Connectors, streams, watchdogs and clocks that exist are not in use by that.
#[test]
fn roles_that_exist_and_are_not_played() {
    let tree = nvme();
    let home = format!("{}/x", Tree::home(BDF));
    for (class, name, attribute, text) in [
        ("tty", "ttyS5", "dev", "4:69\n"),
        ("drm", "card0-DP-1", "status", "connected\n"),
        ("drm", "card0-DP-2", "enabled", "enabled\n"),
        ("graphics", "fb1", "dev", "29:1\n"),
        ("input", "input5", "capabilities/key", "0 4000 0\n"),
        ("sound", "card3", "id", "x\n"),
        ("watchdog", "watchdog1", "state", "inactive\n"),
        ("rtc", "rtc0", "hctosys", "0\n"),
    ] {
        let dir = format!("{home}/{class}/{name}");
        tree.file(&format!("{dir}/{attribute}"), text);
        tree.link(&format!("sys/class/{class}/{name}"), &dir);
    }
    tree.file("sys/class/tty/console/active", "ttyS0\n");
    tree.file("proc/asound/card3/pcm0p/sub0/status", "closed\n");
    assert_eq!(uses(&tree), [""; 0]);
}

/// A process with a character device below the device open, whatever its path.
#[test]
fn a_node_that_a_process_has_open() {
    let tree = nvme();
    // /dev/null stands for the node: anybody may look at it.
    tree.file(
        &format!("{}/sound/card0/controlC0/dev", Tree::home(BDF)),
        "1:3\n",
    );
    tree.file("proc/88/comm", "player\n")
        .directory("proc/88/fd");
    std::os::unix::fs::symlink("/dev/null", tree.path("proc/88/fd/9")).unwrap();
    assert_eq!(uses(&tree), ["player (process 88) has /dev/null open"]);
    let all = found(&tree);
    assert!(all[0].is_serious() && all[0].remedy().unwrap().contains("ps -p 88"));
}

/// A claim that nothing was found names each thing that was looked at.
#[test]
fn a_claim_names_what_was_looked_at() {
    for sees_all in [true, false] {
        let claim = nothing_found(sees_all);
        for word in [
            "open or mapped node",
            "mounted file system",
            "swap space",
            "interface",
            "console",
            "keyboard",
            "screen",
            "sound stream",
            "TPM",
            "clock",
            "watchdog",
        ] {
            assert!(claim.contains(word), "{word}: {claim}");
        }
        assert_eq!(claim.contains("process of this user"), !sees_all);
    }
}
