use vmm::config::ports;

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn with_ports(text: &str) -> HostFacts {
    let mut facts = host();
    facts.ports = Some(ports::parse(text).unwrap());
    facts
}

/// A device whose only BAR is so large.
fn endpoint(bdf: &str, size: u64, prefetchable: bool) -> DeviceFacts {
    let mut facts = device();
    facts.device.bdf = bdf.parse().unwrap();
    facts.details.bars[0].size = size;
    facts.details.bars[0].prefetchable = prefetchable;
    facts
}

#[track_caller]
fn found(name: &str, host: &HostFacts, devices: &[DeviceFacts]) -> (Level, String, String) {
    one(&check(host, devices), name)
}

#[test]
fn ports_are_counted() {
    let none = check(&host(), &[device()]);
    assert!(
        none.iter()
            .all(|f| f.name != "ports" && f.name != "port-room")
    );
    let (level, text, _) = found("ports", &with_ports("2"), &[]);
    assert_eq!(level, Pass);
    assert_eq!(
        text,
        "2 empty root ports with 4 MiB below 4 GiB and 1 GiB above each fit"
    );
    let (level, text, _) = found("ports", &with_ports("1,io=on"), &[device()]);
    assert_eq!(
        (level, text.contains("1 GiB above, I/O ports fit beside")),
        (Pass, true),
        "{text}"
    );
    // 46 bits have 64 TiB.
    let (level, text, fix) = found("ports", &with_ports("3,mem64=32T"), &[]);
    assert_eq!(
        (level, fix.contains("--memory")),
        (Fail, true),
        "{text} {fix}"
    );
    let (level, _, fix) = found("ports", &with_ports("128,mem32=4M"), &[device()]);
    assert_eq!(
        (level, fix.contains("--ports 1,mem32=2M")),
        (Warn, true),
        "{fix}"
    );
}

/// The ports and the devices share the addresses below 4 GiB.
#[test]
fn a_device_that_loses_its_port_is_named() {
    let large = endpoint("02:00.0", 256 * MIB, false);
    let host = with_ports("1,mem32=512M");
    let (level, text, _) = found("ports", &host, &[large]);
    assert_eq!(level, Warn);
    assert!(
        text.contains("0000:02:00.0 is on bus 0: a root port for it needs 256 MiB"),
        "{text}"
    );
    // A prefetchable BAR lies above.
    let far = endpoint("02:00.0", 256 * MIB, true);
    assert_eq!(found("ports", &with_ports("1,mem32=256M"), &[far]).0, Pass);
}

#[test]
fn ram_must_be_where_some_iommu_reaches() {
    let mut host = with_ports("1");
    host.wanted = 8 << 30;
    host.groups = vec![Reach {
        bits: Some(32),
        reserved: Vec::new(),
    }];
    let (level, text, _) = found("ports", &host, &[]);
    assert_eq!(level, Fail);
    assert!(
        text.contains("no device of this host can be added later"),
        "{text}"
    );
}

#[test]
fn a_device_to_be_added_needs_room() {
    for (ports, size, prefetchable, fix) in [
        ("1", 16 << 10, false, ""),
        ("1", GIB, true, ""),
        ("1", 8 * MIB, false, "--ports 1,mem32=8M"),
        ("2", 16 * GIB, true, "--ports 2,mem64=16G"),
        // 1 GiB is what a port has if no size is given.
        ("1,mem64=512M", 768 * MIB, true, "--ports 1"),
        ("1,mem32=8M", 16 * GIB, true, "--ports 1,mem32=8M,mem64=16G"),
        ("1,mem64=16G", 16 * GIB, true, ""),
        ("4", 256 * MIB, false, "--ports 1,mem32=256M"),
        (
            "4",
            GIB,
            false,
            "no port can have such a window: give it at the start, with --vfio 0000:02:00.0",
        ),
    ] {
        let level = if fix.is_empty() { Pass } else { Warn };
        let devices = [endpoint("02:00.0", size, prefetchable)];
        let (found, text, remedy) = found("port-room", &with_ports(ports), &devices);
        assert_eq!((found, remedy.as_str()), (level, fix), "{ports}: {text}");
    }
    let mut serial = device();
    serial.details.bars[0].space = Space::Io;
    serial.details.bars[0].size = 32;
    let devices = std::slice::from_ref(&serial);
    let (level, text, fix) = found("port-room", &with_ports("1"), devices);
    assert_eq!((level, fix.as_str()), (Warn, "--ports 1,io=on"), "{text}");
    assert_eq!(found("port-room", &with_ports("1,io=on"), devices).0, Pass);
}
