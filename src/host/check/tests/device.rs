use super::*;

#[test]
fn what_does_not_fit() {
    with_host("addresses", |h| h.wanted = 1 << 46, Fail, "--memory");
    // AMD's IOMMU leaves its range below 1 TiB out; Intel's does not.
    for maker in [Maker::Intel, Maker::Amd] {
        let mut facts = host();
        (facts.wanted, facts.cpu.maker) = (2 << 40, maker);
        let mut device = device();
        device.reach.bits = Some(46);
        if maker == Maker::Amd {
            let range = Range::inclusive(0xfd_0000_0000, 0xff_ffff_ffff).unwrap();
            device.reach.reserved.push((range, Reserved::Other));
        }
        let (level, text, _) = one(&check(&facts, &[device]), "addresses");
        assert_eq!(level, Pass, "{text}");
    }
    let huge = |d: &mut DeviceFacts| d.details.bars[0].size = 1 << 46;
    with_device("addresses", huge, Fail, "fewer devices");
    let hole = |d: &mut DeviceFacts| {
        let range = Range::inclusive(0x1000_0000, 0x1fff_ffff).unwrap();
        d.reach.reserved.push((range, Reserved::Other));
    };
    with_device("addresses", hole, Fail, "below the reserved range");
    // The BARs fit into the processor's 46 bits, but not into the IOMMU's 39.
    let narrow = |d: &mut DeviceFacts| {
        d.reach.bits = Some(39);
        d.details.bars[0].size = 1 << 39;
    };
    with_device("addresses", narrow, Warn, "--memory");
    let near = |d: &mut DeviceFacts| d.reach.bits = Some(39);
    with_device("addresses", near, Pass, "");
    // If the IOMMU is missing or does not show its width, no finding mentions the IOMMU's width.
    let said = |change: fn(&mut DeviceFacts)| {
        let mut facts = device();
        change(&mut facts);
        one(&check(&host(), &[facts]), "addresses").1
    };
    assert!(said(|_| ()).ends_with("the IOMMU reaches them"));
    assert!(said(|d| d.reach.bits = None).ends_with("reserved ranges"));
    assert!(said(|d| d.device.group = None).ends_with("under 46 bits"));
}

#[test]
fn devices_that_cannot_be_passed() {
    let bridge = |d: &mut DeviceFacts| d.device.header = Header::Bridge;
    with_device("device", bridge, Fail, "host list");
    with_device(
        "device",
        |d| d.details.answers = false,
        Fail,
        "01:00.0/remove",
    );
    // An NVSwitch and a non-transparent bridge have a bridge's class and an endpoint's header.
    with_device("device", |d| d.device.class = 0x06_8000, Pass, "");
    with_device("group", |d| d.device.group = None, Fail, "iommu");
    with_device("group", |d| d.device.no_iommu = true, Fail, "iommu");
    let direct = |d: &mut DeviceFacts| {
        d.reach.reserved[0].1 = Reserved::Direct;
    };
    with_device("reserved-memory", direct, Fail, "firmware");
}

#[test]
fn drivers_of_the_device_and_of_its_group() {
    let bind = "mini-vmm host bind 0000:01:00.0";
    with_device("driver", |d| bind_to(d, Some("nvme"), false), Warn, bind);
    with_device("driver", |d| bind_to(d, None, false), Warn, bind);
    // The kernel says who is registered, not the driver's name.
    with_device("driver", |d| bind_to(d, Some("vfio-x"), false), Warn, bind);
    with_device("driver", |d| bind_to(d, Some("gpu"), true), Pass, "");
    let beside = |driver: Option<&'static str>, class| {
        move |d: &mut DeviceFacts| d.members.push(pci("01:00.1", driver, class))
    };
    let held = beside(Some("e1000e"), 0x02_0000);
    with_device("group-member", held, Fail, "--group");
    let both_held = |d: &mut DeviceFacts| {
        held(d);
        bind_to(d, Some("nvme"), false);
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
    // With iommufd, the check is of the device's own node.
    let mut host = host();
    host.iommufd_node = Node::Usable;
    let mut facts = device();
    facts.cdev = Some(("/dev/vfio/devices/vfio0".into(), Node::Denied));
    let (level, _, fix) = one(&check(&host, &[facts]), "permission");
    assert!(level == Fail && fix.contains("chown $USER /dev/vfio/devices/vfio0"));
    let mut unbound = device();
    bind_to(&mut unbound, None, false);
    assert!(
        check(&host, &[unbound])
            .iter()
            .all(|f| f.name != "permission")
    );
}

#[test]
fn bars_without_an_address_and_with_a_holder() {
    let lost = |space, size| {
        move |d: &mut DeviceFacts| {
            d.details.unassigned.push(Unassigned {
                index: 1,
                space,
                size,
            });
        }
    };
    let large = lost(Space::Memory64, Some(16 << 30));
    with_device("bars", large, Fail, "Above 4G Decoding");
    with_device("bars", lost(Space::Memory32, None), Fail, "pci=realloc");
    with_device("bars", lost(Space::Io, Some(32)), Fail, "pci=realloc");
    with_device("bars", lost(Space::Io, None), Warn, "I/O ports");
    let held = |name: &'static str, framebuffer| {
        move |d: &mut DeviceFacts| {
            d.holders = Holders::Named(vec![Holder {
                bar: Some(0),
                name: name.into(),
                framebuffer,
            }]);
        }
    };
    with_device(
        "bars",
        held("BOOTFB", true),
        Fail,
        "initcall_blacklist=sysfb_init",
    );
    with_device("bars", held("mystery", false), Warn, "/proc/iomem");
    // What was not looked at does not pass.
    let unseen = |d: &mut DeviceFacts| d.holders = Holders::Unknown;
    with_device(
        "bars",
        unseen,
        Warn,
        "as root: mini-vmm host check 0000:01:00.0",
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
