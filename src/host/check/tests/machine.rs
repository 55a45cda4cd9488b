use vmm::hostinfo::node_access::Cause;

use super::*;

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
    // Groups without a unit belong to VFIO's no-IOMMU mode.
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
        h.iommu.container_unsafe = true;
    };
    with_host("interrupt-remapping", allowed, Warn, "echo N > ");
    let other_way = |h: &mut HostFacts| {
        allowed(h);
        h.iommufd_node = Node::Usable;
    };
    let switch = "echo Y > /sys/module/iommufd/parameters/allow_unsafe_interrupts";
    with_host("interrupt-remapping", other_way, Fail, switch);
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

/// iommufd counts what other processes of the user have locked.
#[test]
fn locked_memory_of_other_guests_counts() {
    let beside = |limit: u64| {
        move |h: &mut HostFacts| {
            h.memlock = Some(limit);
            h.locked_by_others = LockedByOthers {
                processes: vec![((12, "mini-vmm".into()), 256 << 20)],
            };
        }
    };
    let (other_way, too_low) = ("--iommu container", "ulimit -l 589824");
    with_host("memlock", beside(600 << 20), Warn, other_way);
    with_host("memlock", beside(600 << 20), Warn, "ulimit -l 851968");
    with_host("memlock", beside(768 << 20), Pass, "");
    with_host("memlock", beside(100 << 20), Fail, too_low);
    let finding = check(
        &{
            let mut facts = host();
            beside(600 << 20)(&mut facts);
            facts
        },
        &[],
    );
    let memlock = finding.iter().find(|f| f.name == "memlock").unwrap();
    assert!(
        memlock
            .text
            .contains("process 12 (mini-vmm) locked 256M of it")
    );
}

#[test]
fn what_confines_this_process_is_named() {
    let cgroup = |h: &mut HostFacts| {
        h.kvm = Node::Denied;
        h.confined = vec![("/dev/kvm".into(), Cause::ControlGroup)];
    };
    with_host("kvm", cgroup, Fail, "`DeviceAllow=/dev/kvm rw`");
    let own_dev = |h: &mut HostFacts| {
        h.container_node = Node::Missing;
        h.iommufd_node = Node::Missing;
        h.iommufd = Module::Present;
        h.confined = vec![
            ("/dev/vfio/vfio".into(), Cause::OwnDev(10, 196)),
            ("/dev/iommu".into(), Cause::OwnDev(10, 123)),
        ];
    };
    with_host(
        "vfio-container",
        own_dev,
        Fail,
        "mknod /dev/vfio/vfio c 10 196",
    );
    let facts = &mut host();
    own_dev(facts);
    let found = check(facts, &[]);
    let iommufd = found.iter().find(|f| f.name == "iommufd").unwrap();
    assert!(
        iommufd.text.contains("this /dev does not have the node"),
        "{iommufd:?}"
    );
}

#[test]
fn memory_and_its_limit() {
    with_host("memory", |h| h.wanted = 5 << 30, Fail, "--memory 2048M");
    with_host(
        "memory",
        |h| h.wanted = 5 << 30,
        Fail,
        "--memory 5120M,check=off",
    );
    let unchecked = |h: &mut HostFacts| (h.wanted, h.checked) = (9 << 30, false);
    with_host("memory", unchecked, Pass, "");
    let group = |left| {
        move |h: &mut HostFacts| {
            let memory = h.memory.unwrap();
            h.memory = Some(HostMemory {
                group: Some(left),
                ..memory
            });
        }
    };
    with_host("memory", group(512 << 20), Pass, "");
    with_host("memory", group(511 << 20), Fail, "raise the limit");
    let reserve = |free| {
        move |h: &mut HostFacts| {
            let reserve = Reserve { total: 256, free };
            h.reserve = Some((HugePage::Mib2, Some(reserve)));
            // Free memory does not matter.
            h.memory = None;
        }
    };
    with_host("memory", reserve(256), Pass, "");
    with_host("memory", reserve(255), Fail, "nr_hugepages");
    with_host(
        "memory",
        |h| h.reserve = Some((HugePage::Gib1, None)),
        Fail,
        "hugepages=thp",
    );
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
