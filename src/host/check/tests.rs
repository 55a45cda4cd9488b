mod device;
mod machine;
mod ports;

use Level::{Fail, Pass, Warn};
use pci::addr::Range;
use pci::express::FunctionType;
use vmm::config::memory::HugePage;
use vmm::hostinfo::header::Header;
use vmm::hostinfo::iova::{Reach, Reserved};
use vmm::hostinfo::locked::LockedByOthers;
use vmm::hostinfo::memory::HostMemory;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::memory::hugetlb::Reserve;

use super::*;
use crate::bar_holders::{Holder, Holders};
use crate::details::{Details, HostBar, Space, Unassigned};
use crate::facts::{Cpu, Maker, Module, Node};
use crate::in_use::Use;
use crate::iommu::Iommu;
use crate::style::{Style, WIDTH};

/// A host without problems.
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
            off: Vec::new(),
            no_iommu_mode: false,
            remapping: true,
            container_unsafe: false,
            iommufd_unsafe: false,
        },
        vfio_pci: Module::Present,
        type1: Module::Present,
        iommufd: Module::Absent,
        container_node: Node::Usable,
        iommufd_node: Node::Missing,
        memory: Some(HostMemory {
            total: 8 << 30,
            available: 4 << 30,
            group: None,
        }),
        memlock: None,
        huge_pages: Some("madvise".into()),
        locked_by_others: LockedByOthers::default(),
        confined: vec![],
        wanted: 512 << 20,
        checked: true,
        reserve: None,
        ports: None,
        groups: vec![],
    }
}

fn pci(bdf: &str, driver: Option<&str>, class: u32) -> PciDevice {
    PciDevice {
        bdf: bdf.parse().unwrap(),
        path: "/nowhere".into(),
        driver: driver.map(String::from),
        group: Some(7),
        class,
        header: match class >> 8 {
            0x0604 => Header::Bridge,
            _ => Header::Endpoint,
        },
        vfio: driver == Some("vfio-pci"),
        owned_groups: true,
        no_iommu: false,
    }
}

/// A device without problems.
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
        holders: Holders::Named(Vec::new()),
        members: vec![device.clone()],
        uses: Vec::new(),
        sees_all: true,
        function_type: Some(FunctionType::Endpoint),
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

/// Gives the device another driver, which registers it with VFIO or not.
fn bind_to(facts: &mut DeviceFacts, driver: Option<&str>, vfio: bool) {
    facts.device.driver = driver.map(String::from);
    facts.device.vfio = vfio;
}

/// The only finding of this name. The finding has a remedy if and only if the check does not pass.
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

/// Changes one fact of the good host, and expects this level and these words in the remedy.
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
        memlock huge-pages addresses device group driver permission bars reset power rom in-use";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    assert!(
        findings
            .iter()
            .all(|f| (f.name == "in-use") <= f.device.is_some())
    );
}

#[test]
fn people_read_lines_and_programs_objects() {
    let mut bad = host();
    bad.huge_pages = Some("never".into());
    bad.wanted = 1 << 40;
    let mut unbound = device();
    bind_to(&mut unbound, None, false);
    let findings = check(&bad, &[unbound]);
    let text = to_text(&findings, Style::default());
    assert!(
        text.starts_with("PASS  processor           virtualises in hardware (vmx)\n"),
        "{text}"
    );
    assert!(
        text.contains(
            "WARN  huge-pages          off (never): the guest starts and runs slower\n      \
         → as root: echo madvise"
        ),
        "{text}"
    );
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
