//! The command lines of all VMMs.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::*;
use crate::subjects::peer::Way;
use crate::work::task::{DiskId, FunctionId, PortId};

/// The command line in one line; for Firecracker, its file.
fn line(peer: Peer, native_idle: bool, engine: Engine, destroy: Option<&str>) -> String {
    started(Boot::Work, peer, native_idle, (engine, destroy))
}

/// The same for what the VMM is started for.
fn started(
    boot: Boot,
    peer: Peer,
    native_idle: bool,
    (engine, destroy): (Engine, Option<&str>),
) -> String {
    let guest = Guest {
        kernel: "/boot/k".into(),
        initramfs: in_memory(b"").unwrap(),
        tiny: in_memory(b"").unwrap(),
        life: true,
        cmdline: "more".into(),
        memory: "256M".into(),
        cpus: vec![2, 3],
        address: "0000:01:00.0".into(),
    };
    let task = Task {
        works: Vec::new(),
        warm_up_ms: 1,
        measure_ms: 1,
        engine,
        target: match peer.way() {
            Way::Port => Target::Port(PortId {
                mac: "52:54:00:00:00:06".into(),
                address: Ipv4Addr::new(198, 18, 0, 1),
                prefix: 30,
                peer: SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 5210),
            }),
            Way::Device | Way::Disk => Target::Disk(DiskId {
                wwid: None,
                sectors: 8,
            }),
        },
        function: FunctionId::default(),
        destroy: destroy.map(str::to_owned),
    };
    let line = Line {
        peer,
        native_idle,
        guest: &guest,
        task: &task,
        boot,
        given: match peer.way() {
            Way::Device => Given::Device,
            Way::Disk => Given::Disk(Path::new("/dev/disk,1")),
            Way::Port => Given::Port {
                tap: 7,
                vhost: (peer == Peer::QemuVhost).then_some(8),
            },
        },
        words: "mini_vmm_bench.seed=7",
    };
    match peer {
        Peer::Firecracker => line.firecracker(),
        Peer::Alioth => line.alioth("/dev/vfio/devices/vfio3").join(" "),
        _ => line.words().unwrap().words.join(" "),
    }
}

fn has(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word} in {line}");
    }
}

const RINGS: Engine = Engine::IoUring;

/// Only a guest that is to reboot may, and a guest of a few bytes has no initramfs.
#[test]
fn a_guest_reboots_only_where_that_is_measured() {
    for (boot, reboots, is_linux) in [
        (Boot::Work, false, true),
        (Boot::First, false, false),
        (Boot::Life, true, true),
    ] {
        let line = started(boot, Peer::QemuVfio, false, (RINGS, None));
        assert_eq!(!line.contains("-no-reboot"), reboots, "{line}");
        assert_eq!(line.contains("-kernel /boot/k"), is_linux, "{line}");
        for word in ["-initrd", "-append"] {
            assert_eq!(line.contains(word), is_linux, "{line}");
        }
        has(&line, &["vfio-pci,host=0000:01:00.0"]);
    }
}

/// Only the host's own device is reset: an emulated card's reset is no figure of the device.
#[test]
fn a_guest_resets_no_emulated_card() {
    for (peer, resets) in [
        (Peer::QemuVfio, true),
        (Peer::QemuNvme, false),
        (Peer::QemuVirtio, false),
        (Peer::QemuE1000e, false),
        (Peer::QemuVhost, false),
    ] {
        assert!(peer.reboots());
        for boot in [Boot::Work, Boot::Life] {
            let line = started(boot, peer, false, (RINGS, None));
            let is_reset = line.contains("mini_vmm_bench.reset=1");
            assert_eq!(is_reset, resets && boot == Boot::Life, "{line}");
        }
    }
    for peer in [Peer::QemuE1000e, Peer::QemuVhost] {
        let line = started(Boot::Life, peer, false, (RINGS, None));
        assert!(!line.contains("-no-reboot"), "{line}");
        has(&line, &["-kernel /boot/k ", "-netdev tap,id=port,fd=7"]);
        let first = started(Boot::First, peer, false, (RINGS, None));
        assert!(first.contains("-no-reboot") && !first.contains("-append"));
    }
}

#[test]
fn no_way_lets_the_guest_write_unless_the_disk_was_named() {
    for (peer, refused, permitted) in [
        (Peer::QemuNvme, "read-only=on,", "read-only=off,"),
        (Peer::QemuVirtio, "read-only=on,", "read-only=off,"),
        (Peer::CloudHypervisorVirtio, "readonly=on,", "readonly=off,"),
        (
            Peer::Firecracker,
            "\"is_read_only\":true",
            "\"is_read_only\":false",
        ),
    ] {
        let plain = line(peer, false, RINGS, None);
        assert!(!plain.contains(permitted), "{plain}");
        has(
            &plain,
            &[
                refused,
                "more mini_vmm_bench.seed=7 mini_vmm_bench.any_disk=1",
            ],
        );
        assert!(
            !plain.contains("vfio") && !plain.contains("cpu-pm"),
            "{plain}"
        );
        has(&line(peer, false, RINGS, Some("S1")), &[permitted]);
    }
}

#[test]
fn the_device_itself_is_no_drive() {
    for (peer, device) in [
        (Peer::QemuVfio, "-device vfio-pci,host=0000:01:00.0"),
        (
            Peer::CloudHypervisor,
            "--device path=/sys/bus/pci/devices/0000:01:00.0/",
        ),
        (
            Peer::Crosvm,
            "--vfio /sys/bus/pci/devices/0000:01:00.0 /boot/k",
        ),
        (Peer::Alioth, "--vfio-cdev path=/dev/vfio/devices/vfio3"),
        (
            Peer::Openvmm,
            "--pcie-root-port rc0:rp0 --vfio host=0000:01:00.0,port=rp0",
        ),
    ] {
        let line = line(peer, false, RINGS, None);
        assert!(line.ends_with(device), "{line}");
        for word in ["drive", "blockdev", "--disk ", "any_disk", "cpu-pm"] {
            assert!(!line.contains(word), "{word} in {line}");
        }
    }
    has(
        &line(Peer::QemuVfio, true, RINGS, None),
        &["-overcommit cpu-pm=on", ",kvm-hint-dedicated=on -smp"],
    );
    assert!(!line(Peer::QemuVfio, false, RINGS, None).contains("dedicated"));
}

#[test]
fn a_port_is_a_card_over_a_macvtap() {
    for (peer, wanted) in [
        (
            Peer::QemuE1000e,
            "-netdev tap,id=port,fd=7 \
             -device e1000e,netdev=port,mac=52:54:00:00:00:06,romfile=",
        ),
        (
            Peer::QemuVhost,
            "-netdev tap,id=port,fd=7,vhost=on,vhostfd=8 \
             -device virtio-net-pci,netdev=port,mac=52:54:00:00:00:06,romfile=",
        ),
    ] {
        let line = line(peer, false, RINGS, None);
        assert!(line.ends_with(wanted), "{line}");
        for word in ["drive", "blockdev", "any_disk", "vfio"] {
            assert!(!line.contains(word), "{word} in {line}");
        }
        has(
            &line,
            &[
                "-smp 2 ",
                "-m 256M ",
                "-kernel /boot/k ",
                "-append console=ttyS0 quiet loglevel=4 panic=-1 more ",
            ],
        );
    }
}

#[test]
fn all_guests_have_the_same_cpus_and_memory() {
    for (peer, words) in [
        (
            Peer::QemuVfio,
            &["-smp 2 ", "-m 256M ", "-kernel /boot/k "][..],
        ),
        (
            Peer::CloudHypervisor,
            &[
                "--cpus boot=2,affinity=[0@[2],1@[3]] ",
                "--memory size=256M ",
            ],
        ),
        (
            Peer::Crosvm,
            &["--cpus 2 ", "--cpu-affinity 0=2:1=3 ", "--mem 256 "],
        ),
        (
            Peer::Firecracker,
            &["\"vcpu_count\":2", "\"mem_size_mib\":256"],
        ),
        (Peer::Alioth, &["--cpu count=2 ", "--memory size=256M,"]),
        (
            Peer::Openvmm,
            &["--processors 2 ", "--memory size=256M,shared=off "],
        ),
    ] {
        let line = line(peer, false, RINGS, None);
        has(&line, words);
        has(&line, &["console=ttyS0 quiet loglevel=4 panic=-1 more "]);
    }
}

#[test]
fn a_node_is_found_in_sysfs() {
    let sys = std::env::temp_dir().join(format!("bench-cdev-{}", std::process::id()));
    let device = sys.join("bus/pci/devices/0000:01:00.0");
    fs::create_dir_all(device.join("vfio-dev/vfio3")).unwrap();
    let found = cdev(&sys, "0000:01:00.0").unwrap();
    let missing = cdev(&sys, "0000:02:00.0").unwrap_err();
    fs::remove_dir_all(&sys).unwrap();
    assert_eq!(found, "/dev/vfio/devices/vfio3");
    assert!(missing.to_string().contains("0000:02:00.0"), "{missing}");
}

#[test]
fn the_engine_is_the_host_s() {
    for (peer, rings, threads) in [
        (Peer::QemuVirtio, "aio=io_uring", "aio=threads"),
        (
            Peer::CloudHypervisorVirtio,
            "_disable_io_uring=off",
            "_disable_io_uring=on",
        ),
        (Peer::Firecracker, "Async", "Sync"),
    ] {
        has(&line(peer, false, RINGS, None), &[rings]);
        has(&line(peer, false, Engine::Threads, None), &[threads]);
    }
    has(
        &line(Peer::QemuNvme, false, RINGS, None),
        &[
            "filename=/dev/disk,,1,",
            "logical_block_size=512,physical_block_size=512",
        ],
    );
}
