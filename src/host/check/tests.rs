use super::*;
use crate::host::details::{Details, HostBar, Space};
use crate::host::facts::{Cpu, Maker, Module, Node};
use crate::host::in_use::Use;
use crate::host::iommu::{Iommu, Reach, Reserved};
use crate::host::memory::HostMemory;
use crate::host::style::{Style, WIDTH};
use crate::host::sysfs::PciDevice;
use crate::layout::Range;

use Level::{Fail, Pass, Warn};

/// A host with nothing amiss.
fn host() -> HostFacts {
    HostFacts {
        cpu: Cpu {
            maker: Maker::Intel,
            virtualisation: Some("vmx"),
            phys_bits: Some(46),
        },
        kernel: "6.1.0-test".into(),
        kvm: Node::Usable,
        iommu: Iommu {
            units: vec!["dmar0".into()],
            groups: 12,
            tables: vec!["DMAR"],
            remapping: true,
            unsafe_interrupts: false,
        },
        vfio_pci: Module::Present,
        type1: Module::Present,
        iommufd: Module::Absent,
        container_node: Node::Usable,
        iommufd_node: Node::Missing,
        memory: Some(HostMemory {
            total: 8 << 30,
            available: 4 << 30,
        }),
        memlock: None,
        huge_pages: Some("madvise".into()),
        wanted: 512 << 20,
    }
}

fn pci(bdf: &str, driver: Option<&str>, class: u32) -> PciDevice {
    PciDevice {
        bdf: bdf.parse().unwrap(),
        path: "/nowhere".into(),
        driver: driver.map(String::from),
        group: Some(7),
        class,
    }
}

/// A device with nothing amiss.
fn device() -> DeviceFacts {
    let device = pci("01:00.0", Some("vfio-pci"), 0x01_0802);
    DeviceFacts {
        details: Details {
            id: (0x1b36, 0x10),
            reset_methods: vec!["flr".into()],
            bars: vec![HostBar {
                index: 0,
                space: Space::Memory64,
                prefetchable: false,
                size: 16 << 10,
            }],
            power_state: Some("D0".into()),
            answers: true,
            ..Details::default()
        },
        members: vec![device.clone()],
        uses: Vec::new(),
        reach: Reach {
            bits: Some(48),
            reserved: vec![(
                Range::inclusive(0xfee0_0000, 0xfeef_ffff).unwrap(),
                Reserved::Other,
            )],
        },
        group_node: Node::Usable,
        cdev: None,
        device,
    }
}

/// The one finding of a name; what does not pass has a remedy.
#[track_caller]
fn one(findings: &[Finding], name: &str) -> (Level, String, String) {
    let found: Vec<_> = findings.iter().filter(|f| f.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {findings:#?}");
    let finding = found[0];
    assert_eq!(finding.level == Pass, finding.fix.is_none(), "{finding:?}");
    (
        finding.level,
        finding.text.clone(),
        finding.fix.clone().unwrap_or_default(),
    )
}

/// Changes one fact of the good host and expects a level, and words in the remedy.
#[track_caller]
fn with_host(name: &str, change: impl FnOnce(&mut HostFacts), level: Level, words: &str) {
    let mut facts = host();
    change(&mut facts);
    let (found, text, fix) = one(&check(&facts, &[]), name);
    assert_eq!(found, level, "{name}: {text}");
    assert!(fix.contains(words), "{name}: {fix}");
}

#[track_caller]
fn with_device(name: &str, change: impl FnOnce(&mut DeviceFacts), level: Level, words: &str) {
    let mut facts = device();
    change(&mut facts);
    let (found, text, fix) = one(&check(&host(), &[facts]), name);
    assert_eq!(found, level, "{name}: {text}");
    assert!(fix.contains(words), "{name}: {fix}");
}

#[test]
fn a_good_host_passes_everything() {
    let findings = check(&host(), &[device()]);
    let bad: Vec<_> = findings.iter().filter(|f| f.level != Pass).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(is_good(&findings));
    let names: Vec<_> = findings.iter().map(|f| f.name).collect();
    let expected = "processor kvm iommu interrupt-remapping vfio-pci vfio-container iommufd memory \
        memlock huge-pages addresses device group driver permission reset power rom in-use";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    assert!(
        findings
            .iter()
            .all(|f| (f.name == "in-use") <= f.device.is_some())
    );
}

#[test]
fn processor_and_kvm() {
    let off = |h: &mut HostFacts| {
        h.cpu.virtualisation = None;
        h.kvm = Node::Missing;
    };
    with_host("processor", off, Fail, "VT-x");
    with_host(
        "processor",
        |h| (off(h), h.cpu.maker = Maker::Amd).1,
        Fail,
        "SVM",
    );
    with_host("processor", |h| h.cpu.virtualisation = None, Warn, "nest");
    with_host("kvm", |h| h.kvm = Node::Denied, Fail, "usermod -aG kvm");
    with_host("kvm", |h| h.kvm = Node::Missing, Fail, "modprobe kvm_intel");
    let amd = |h: &mut HostFacts| {
        h.kvm = Node::Missing;
        h.cpu.maker = Maker::Amd;
    };
    with_host("kvm", amd, Fail, "modprobe kvm_amd");
}

#[test]
fn iommu_and_its_interrupts() {
    let off = |h: &mut HostFacts| {
        h.iommu.units.clear();
        h.iommu.groups = 0;
        h.iommu.remapping = false;
    };
    with_host("iommu", off, Fail, "intel_iommu=on");
    let amd = |h: &mut HostFacts| {
        off(h);
        h.iommu.tables = vec!["IVRS"];
    };
    with_host("iommu", amd, Fail, "amd_iommu=on");
    let none = |h: &mut HostFacts| {
        off(h);
        h.iommu.tables.clear();
    };
    with_host("iommu", none, Fail, "VT-d");
    // Groups without a unit are those of VFIO without an IOMMU.
    with_host("iommu", |h| h.iommu.units.clear(), Fail, "intel_iommu=on");
    let mut facts = host();
    off(&mut facts);
    assert!(
        check(&facts, &[])
            .iter()
            .all(|f| f.name != "interrupt-remapping")
    );

    let plain = |h: &mut HostFacts| h.iommu.remapping = false;
    with_host(
        "interrupt-remapping",
        plain,
        Fail,
        "echo Y > /sys/module/vfio_iommu_type1",
    );
    let allowed = |h: &mut HostFacts| {
        plain(h);
        h.iommu.unsafe_interrupts = true;
    };
    with_host("interrupt-remapping", allowed, Warn, "echo N > ");
}

#[test]
fn vfio_and_iommufd() {
    with_host(
        "vfio-pci",
        |h| h.vfio_pci = Module::Loadable,
        Warn,
        "modprobe vfio-pci",
    );
    with_host(
        "vfio-pci",
        |h| h.vfio_pci = Module::Absent,
        Fail,
        "CONFIG_VFIO_PCI",
    );

    with_host(
        "vfio-container",
        |h| h.container_node = Node::Denied,
        Fail,
        "chmod 666",
    );
    with_host(
        "vfio-container",
        |h| h.container_node = Node::Missing,
        Fail,
        "modprobe",
    );
    with_host(
        "vfio-container",
        |h| h.type1 = Module::Absent,
        Fail,
        "TYPE1",
    );
    with_host(
        "vfio-container",
        |h| h.type1 = Module::Loadable,
        Warn,
        "modprobe vfio_iommu_type1",
    );
    let other_way = |h: &mut HostFacts| {
        h.type1 = Module::Absent;
        h.iommufd_node = Node::Usable;
    };
    with_host("vfio-container", other_way, Warn, "iommufd");

    with_host("iommufd", |h| h.iommufd_node = Node::Usable, Pass, "");
    with_host(
        "iommufd",
        |h| h.iommufd_node = Node::Denied,
        Warn,
        "chown $USER /dev/iommu",
    );
    with_host(
        "iommufd",
        |h| h.iommufd = Module::Loadable,
        Warn,
        "modprobe iommufd",
    );
}

#[test]
fn memory_and_its_limit() {
    with_host("memory", |h| h.wanted = 5 << 30, Warn, "--memory 2048M");
    with_host("memory", |h| h.wanted = 9 << 30, Fail, "--memory 2048M");
    with_host("memlock", |h| h.memlock = Some(512 << 20), Pass, "");
    with_host(
        "memlock",
        |h| h.memlock = Some(8 << 20),
        Fail,
        "ulimit -l 589824",
    );
    with_host(
        "huge-pages",
        |h| h.huge_pages = Some("always".into()),
        Pass,
        "",
    );
    with_host(
        "huge-pages",
        |h| h.huge_pages = Some("never".into()),
        Warn,
        "echo madvise",
    );
    with_host(
        "huge-pages",
        |h| h.huge_pages = None,
        Warn,
        "CONFIG_TRANSPARENT_HUGEPAGE",
    );
}

#[test]
fn what_does_not_fit() {
    with_host("addresses", |h| h.wanted = 1 << 40, Fail, "--memory");
    let huge = |d: &mut DeviceFacts| d.details.bars[0].size = 1 << 46;
    with_device("addresses", huge, Fail, "fewer devices");
    let hole = |d: &mut DeviceFacts| {
        let range = Range::inclusive(0x1000_0000, 0x1fff_ffff).unwrap();
        d.reach.reserved.push((range, Reserved::Other));
    };
    with_device("addresses", hole, Fail, "below the reserved range");
    // The processor's 46 bits have room for the BARs, the IOMMU's 39 have not.
    let narrow = |d: &mut DeviceFacts| {
        d.reach.bits = Some(39);
        d.details.bars[0].size = 1 << 39;
    };
    with_device("addresses", narrow, Warn, "--memory");
    let near = |d: &mut DeviceFacts| d.reach.bits = Some(39);
    with_device("addresses", near, Pass, "");
    // Nothing is claimed of an IOMMU that is not there, or does not say how far it reaches.
    let said = |change: fn(&mut DeviceFacts)| {
        let mut facts = device();
        change(&mut facts);
        one(&check(&host(), &[facts]), "addresses").1
    };
    assert!(said(|_| ()).ends_with("the IOMMU reaches them"));
    assert!(said(|d| d.reach.bits = None).ends_with("sets apart"));
    assert!(said(|d| d.device.group = None).ends_with("under 46 bits"));
}

#[test]
fn devices_that_cannot_be_passed() {
    let bridge = |d: &mut DeviceFacts| d.device.class = 0x06_0400;
    with_device("device", bridge, Fail, "host list");
    with_device(
        "device",
        |d| d.details.answers = false,
        Fail,
        "01:00.0/remove",
    );
    with_device("group", |d| d.device.group = None, Fail, "iommu");
    let direct = |d: &mut DeviceFacts| {
        d.reach.reserved[0].1 = Reserved::Direct;
    };
    with_device("reserved-memory", direct, Fail, "firmware");
}

#[test]
fn drivers_of_the_device_and_of_its_group() {
    let bind = "mini-vmm host bind 0000:01:00.0";
    with_device(
        "driver",
        |d| d.device.driver = Some("nvme".into()),
        Warn,
        bind,
    );
    with_device("driver", |d| d.device.driver = None, Warn, bind);
    let beside = |driver: Option<&'static str>, class| {
        move |d: &mut DeviceFacts| d.members.push(pci("01:00.1", driver, class))
    };
    let held = beside(Some("e1000e"), 0x02_0000);
    with_device("group-member", held, Fail, "--group");
    let both_held = |d: &mut DeviceFacts| {
        held(d);
        d.device.driver = Some("nvme".into());
    };
    with_device("group-member", both_held, Warn, "--group");
    with_device("group-member", beside(None, 0x02_0000), Pass, "");
    with_device(
        "group-member",
        beside(Some("vfio-pci"), 0x02_0000),
        Pass,
        "",
    );
    with_device(
        "group-member",
        beside(Some("pcieport"), 0x06_0400),
        Pass,
        "",
    );
}

#[test]
fn nodes_of_a_bound_device() {
    with_device(
        "permission",
        |d| d.group_node = Node::Denied,
        Fail,
        "chown $USER /dev/vfio/7",
    );
    with_device(
        "permission",
        |d| d.group_node = Node::Missing,
        Fail,
        "udevadm",
    );
    // With iommufd it is the device's own node that counts.
    let mut host = host();
    host.iommufd_node = Node::Usable;
    let mut facts = device();
    facts.cdev = Some(("/dev/vfio/devices/vfio0".into(), Node::Denied));
    let (level, _, fix) = one(&check(&host, &[facts]), "permission");
    assert!(level == Fail && fix.contains("chown $USER /dev/vfio/devices/vfio0"));
    let mut unbound = device();
    unbound.device.driver = None;
    assert!(
        check(&host, &[unbound])
            .iter()
            .all(|f| f.name != "permission")
    );
}

#[test]
fn reset_power_and_rom() {
    with_device(
        "reset",
        |d| d.details.reset_methods.clear(),
        Warn,
        "01:00.0/reset_method",
    );
    with_device(
        "reset",
        |d| d.details.reset_methods = vec!["unnamed".into()],
        Pass,
        "",
    );
    let state =
        |text: &'static str| move |d: &mut DeviceFacts| d.details.power_state = Some(text.into());
    with_device("power", state("D3cold"), Pass, "");
    with_device("power", state("unknown"), Pass, "");
    with_device("power", state("error"), Fail, "power/control");
    with_device("rom", |d| d.details.rom = Some(64 << 10), Pass, "");
    let shadow = |d: &mut DeviceFacts| {
        d.details.rom = Some(64 << 10);
        d.uses.push(Use::BootDisplay);
    };
    with_device("rom", shadow, Warn, "another display");
}

#[test]
fn what_the_host_does_with_it() {
    let mounted = |at: &str| Use::Mounted {
        disk: "nvme0n1".into(),
        at: at.into(),
    };
    with_device(
        "in-use",
        |d| d.uses.push(mounted("/srv")),
        Fail,
        "umount '/srv'",
    );
    with_device(
        "in-use",
        |d| d.uses.push(mounted("/")),
        Fail,
        "another device",
    );
    let up = Use::Interface {
        name: "eth0".into(),
        addresses: Vec::new(),
        default_route: false,
        master: None,
    };
    with_device("in-use", |d| d.uses.push(up), Warn, "ip link set eth0 down");
    with_device(
        "in-use",
        |d| d.uses.push(Use::BootDisplay),
        Fail,
        "another display",
    );
}

#[test]
fn people_read_lines_and_programs_objects() {
    let mut bad = host();
    bad.huge_pages = Some("never".into());
    bad.wanted = 1 << 40;
    let mut unbound = device();
    unbound.device.driver = None;
    let findings = check(&bad, &[unbound]);
    let text = to_text(&findings, Style::default());
    assert!(
        text.starts_with("PASS  processor           virtualises in hardware (vmx)\n"),
        "{text}"
    );
    assert!(text.contains(
        "WARN  huge-pages          off (never): the guest starts and runs slower\n      → as root: echo madvise"
    ), "{text}");
    assert!(
        text.contains(
            "\n0000:01:00.0\nPASS  device              NVMe controller [1b36:0010], BARs 16K\n"
        ),
        "{text}"
    );
    let wide = |line: &&str| !line.contains('→') && line.chars().count() > WIDTH;
    assert!(!text.lines().any(|line| wide(&line)), "{text}");

    let json: serde_json::Value = serde_json::from_str(&to_json(&findings).unwrap()).unwrap();
    assert_eq!(json["good"], false);
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(
        checks[0],
        serde_json::json!({
            "name": "processor", "device": null, "level": "pass",
            "text": "virtualises in hardware (vmx)", "fix": null,
        })
    );
    let driver = checks.iter().find(|c| c["name"] == "driver").unwrap();
    assert_eq!(
        (&driver["device"], &driver["level"]),
        (&"0000:01:00.0".into(), &"warn".into())
    );
    assert!(driver["fix"].as_str().unwrap().contains("host bind"));
}
