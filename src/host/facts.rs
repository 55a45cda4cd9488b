//! All facts that `host check` judges. They are read once. A fact that cannot be read is absent and
//! no error: the check must also work on a host that lacks everything.

use std::path::Path;
use std::{fs, io};

use pci::express::FunctionType;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use vmm::config::memory::{HugePage, MemoryConfig, Pages};
use vmm::config::ports::PortsConfig;
use vmm::hostinfo::device_node::device_node;
use vmm::hostinfo::iova::Reach;
use vmm::hostinfo::locked::LockedByOthers;
use vmm::hostinfo::memory::HostMemory;
use vmm::hostinfo::name::HostName;
use vmm::hostinfo::node_access::Cause;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::Sysfs;
use vmm::memory::hugetlb::Reserve;
use vmm::sys::{may_lock_any, memlock_limit};

use crate::bar_holders::Holders;
use crate::details::Details;
use crate::in_use::{Use, in_use, sees_all};
use crate::iommu::Iommu;
use crate::limited;
use crate::paths::HostPaths;

/// Whether the current user may use a device node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Node {
    /// The node does not exist.
    #[default]
    Missing,
    /// The node exists, but the user may not use it.
    Denied,
    /// The user may read and write the node.
    Usable,
}

impl Node {
    /// Asks the kernel for the permission with access(2). The node is not opened: some nodes can be
    /// opened only once.
    pub fn at(path: &Path) -> Self {
        match accessat(
            CWD,
            path,
            Access::READ_OK | Access::WRITE_OK,
            AtFlags::EACCESS,
        ) {
            Ok(()) => Self::Usable,
            Err(rustix::io::Errno::NOENT) => Self::Missing,
            Err(_) => Self::Denied,
        }
    }
}

/// A part of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Module {
    /// The kernel does not have the module.
    #[default]
    Absent,
    /// The module is not loaded.
    Loadable,
    /// The module is loaded or built in.
    Present,
}

/// The manufacturer of the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maker {
    /// Intel: VT-x, VT-d.
    Intel,
    /// AMD, or Hygon: AMD-V, AMD-Vi.
    Amd,
    /// Another manufacturer.
    #[default]
    Other,
}

/// The processor (/proc/cpuinfo).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// The manufacturer.
    pub maker: Maker,
    /// The flag of its virtualisation, `vmx` or `svm`.
    pub virtualisation: Option<&'static str>,
    /// Bits of a physical address.
    pub phys_bits: Option<u8>,
}

/// The facts of the host, and the memory of the planned guest.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// The processor.
    pub cpu: Cpu,
    /// The running kernel's release.
    pub kernel: String,
    /// /dev/kvm.
    pub kvm: Node,
    /// The IOMMU.
    pub iommu: Iommu,
    /// The module of the driver vfio-pci.
    pub vfio_pci: Module,
    /// The module for groups and containers.
    pub type1: Module,
    /// The module for iommufd, the newer interface.
    pub iommufd: Module,
    /// The node of containers, /dev/vfio/vfio.
    pub container_node: Node,
    /// The node of iommufd, /dev/iommu.
    pub iommufd_node: Node,
    /// The host's memory.
    pub memory: Option<HostMemory>,
    /// The limit RLIMIT_MEMLOCK in bytes; `None` if the user has no limit.
    pub memlock: Option<u64>,
    /// The mode of transparent huge pages: always, madvise or never.
    pub huge_pages: Option<String>,
    /// What other processes of the user have locked by iommufd, which counts a user's processes
    /// together.
    pub locked_by_others: LockedByOthers,
    /// What keeps this process from nodes of devices that the host has.
    pub confined: Vec<(String, Cause)>,
    /// The memory of the planned guest in bytes.
    pub wanted: u64,
    /// Whether a run with this memory looks for free memory.
    pub checked: bool,
    /// The size of the pages that the planned guest takes from the host's reserve, and the reserve
    /// if the host has one; `None` for a guest of other pages.
    pub reserve: Option<(HugePage, Option<Reserve>)>,
    /// The empty root ports of the planned guest, if there are to be any.
    pub ports: Option<PortsConfig>,
    /// The addresses that the IOMMU of each group can map; read for `ports` alone.
    pub groups: Vec<Reach>,
}

/// The facts of a device that the guest gets.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// Address, driver, group, class.
    pub device: PciDevice,
    /// Further facts.
    pub details: Details,
    /// What holds a part of its BARs.
    pub holders: Holders,
    /// All devices of the group, this device included.
    pub members: Vec<PciDevice>,
    /// The uses that the host makes of the device.
    pub uses: Vec<Use>,
    /// Whether this user sees the open files of all processes, which are uses too.
    pub sees_all: bool,
    /// What kind of PCI Express function it is; `None` if the device was not asked, because a call
    /// goes on for it.
    pub function_type: Option<FunctionType>,
    /// The addresses that the IOMMU can map.
    pub reach: Reach,
    /// The group's node, /dev/vfio/GROUP.
    pub group_node: Node,
    /// The device's own node for iommufd, if the kernel makes such a node: its name, and whether
    /// the user may use it.
    pub cdev: Option<(String, Node)>,
}

impl HostFacts {
    /// Reads the host's facts, for a guest with this memory.
    pub fn read(sysfs: &Sysfs, paths: &HostPaths, guest: MemoryConfig) -> Self {
        let proc = |name: &str| fs::read_to_string(paths.proc.join(name)).unwrap_or_default();
        let kernel = proc("sys/kernel/osrelease").trim().to_owned();
        let modules = paths.modules.join(&kernel);
        let list = |name: &str| fs::read_to_string(modules.join(name)).unwrap_or_default();
        let (built_in, loadable) = (list("modules.builtin"), list("modules.dep"));
        let module = |name: &str| {
            if sysfs.path("module").join(name).exists() || is_listed(&built_in, name) {
                Module::Present
            } else if is_listed(&loadable, name) {
                Module::Loadable
            } else {
                Module::Absent
            }
        };
        let huge = fs::read_to_string(sysfs.path("kernel/mm/transparent_hugepage/enabled"));
        Self {
            cpu: cpu(&proc("cpuinfo")),
            kvm: Node::at(&paths.dev.join("kvm")),
            iommu: Iommu::read(sysfs, paths),
            vfio_pci: if sysfs.path("bus/pci/drivers/vfio-pci").exists() {
                Module::Present
            } else {
                module("vfio_pci")
            },
            type1: module("vfio_iommu_type1"),
            iommufd: module("iommufd"),
            container_node: Node::at(&paths.dev.join("vfio/vfio")),
            iommufd_node: Node::at(&paths.dev.join("iommu")),
            memory: HostMemory::read_at(&paths.proc, &sysfs.path("fs/cgroup")),
            memlock: Some(memlock_limit())
                .filter(|&limit| limit < u64::MAX && !may_lock_any(&paths.proc)),
            locked_by_others: match Node::at(&paths.dev.join("iommu")) {
                Node::Usable => LockedByOthers::read(),
                Node::Denied | Node::Missing => LockedByOthers::default(),
            },
            confined: confined(sysfs, paths),
            huge_pages: huge.ok().and_then(|text| selected(&text)),
            kernel,
            wanted: guest.size,
            checked: guest.is_checked(),
            reserve: match guest.pages {
                Pages::Huge(page) => {
                    let pages = sysfs.path("kernel/mm/hugepages");
                    Some((page, Reserve::read_at(&pages, page)))
                }
                _ => None,
            },
            ports: None,
            groups: Vec::new(),
        }
    }
}

impl DeviceFacts {
    /// Reads a device's facts. `busy`: a call of the kernel goes on for the device.
    ///
    /// # Errors
    /// sysfs or /proc cannot be read.
    pub fn read(
        sysfs: &Sysfs,
        paths: &HostPaths,
        device: PciDevice,
        busy: bool,
    ) -> io::Result<Self> {
        let members = match device.group {
            Some(group) => sysfs.group_members(group)?,
            None => Vec::new(),
        };
        let node = |name: String| (Node::at(&paths.dev.join(&name)), name);
        let cdev = device_node(&device.path).map(|name| node(format!("vfio/devices/{name}")));
        let details = Details::read(&device, busy);
        Ok(Self {
            holders: Holders::read(paths, &device, &details.bar_ranges),
            details,
            uses: in_use(sysfs, paths, &device)?,
            sees_all: sees_all(paths),
            function_type: (!busy).then(|| function_type(sysfs, &device)),
            reach: Reach::read(sysfs, &device),
            group_node: device
                .group
                .map_or(Node::Missing, |group| node(format!("vfio/{group}")).0),
            cdev: cdev.map(|(state, name)| (format!("/dev/{name}"), state)),
            members,
            device,
        })
    }
}

/// What kind of function a device is, as a run finds out.
fn function_type(sysfs: &Sysfs, device: &PciDevice) -> FunctionType {
    let config = limited::read(&device.path.join("config")).unwrap_or_default();
    let name = HostName::Pci(device.bdf);
    sysfs.express(name, &config, &limited::read).function_type
}

/// The nodes of the host as a whole that this process may not use, although the host has the
/// device.
fn confined(sysfs: &Sysfs, paths: &HostPaths) -> Vec<(String, Cause)> {
    let cause = |(node, class): (&str, &str)| {
        let path = paths.dev.join(node);
        let path = path.to_str()?;
        let cause = Cause::confining(path, &sysfs.path("class/misc").join(class))?;
        Some((path.to_owned(), cause))
    };
    let nodes = [("kvm", "kvm"), ("vfio/vfio", "vfio"), ("iommu", "iommu")];
    nodes.into_iter().filter_map(cause).collect()
}

/// The facts of the first processor. All processors are alike.
fn cpu(cpuinfo: &str) -> Cpu {
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find_map(|(key, value)| (key.trim() == name).then(|| value.trim()))
    };
    let has = |flag: &str| {
        let mut flags = field("flags").unwrap_or_default().split(' ');
        flags.any(|f| f == flag)
    };
    Cpu {
        maker: match field("vendor_id") {
            Some("GenuineIntel") => Maker::Intel,
            Some("AuthenticAMD" | "HygonGenuine") => Maker::Amd,
            _ => Maker::Other,
        },
        virtualisation: ["vmx", "svm"].into_iter().find(|flag| has(flag)),
        // "48 bits physical, 48 bits virtual"
        phys_bits: field("address sizes")
            .and_then(|text| text.split_once(" bits physical"))
            .and_then(|(bits, _)| bits.parse().ok()),
    }
}

/// Whether the kernel's list of modules contains this module. The names of module files use - and _
/// interchangeably.
fn is_listed(list: &str, module: &str) -> bool {
    list.lines()
        .filter_map(|line| line.split(':').next()?.rsplit('/').next())
        .filter_map(|file| file.split('.').next())
        .any(|name| name.replace('-', "_") == module)
}

/// The word in brackets: `always [madvise] never`.
fn selected(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sse\n\
        address sizes\t: 46 bits physical, 48 bits virtual\n\nprocessor\t: 1\n";

    #[test]
    fn a_host_that_says_everything() {
        let tree = Tree::new();
        tree.file("proc/cpuinfo", CPUINFO)
            .file("proc/sys/kernel/osrelease", "6.1.0-test\n")
            .file("proc/meminfo", "MemTotal: 2048 kB\nMemAvailable: 1024 kB\n")
            .file("proc/self/status", "CapEff:\t0000000000004000\n")
            .file(
                "sys/kernel/mm/transparent_hugepage/enabled",
                "always [madvise] never\n",
            )
            .file(
                "lib/modules/6.1.0-test/modules.dep",
                "kernel/drivers/vfio/pci/vfio-pci.ko.xz: x.ko\n",
            )
            .file(
                "lib/modules/6.1.0-test/modules.builtin",
                "kernel/drivers/iommu/iommufd/iommufd.ko\n",
            )
            .directory("sys/module/vfio_iommu_type1")
            .file("dev/kvm", "");
        let facts = HostFacts::read(&tree.sysfs(), &tree.paths(), MemoryConfig::new(7));
        assert_eq!(
            facts.cpu,
            Cpu {
                maker: Maker::Intel,
                virtualisation: Some("vmx"),
                phys_bits: Some(46)
            }
        );
        assert_eq!(facts.kernel, "6.1.0-test");
        assert_eq!(
            (facts.kvm, facts.iommufd_node),
            (Node::Usable, Node::Missing)
        );
        assert_eq!(
            (facts.vfio_pci, facts.type1, facts.iommufd),
            (Module::Loadable, Module::Present, Module::Present)
        );
        assert_eq!(facts.memory.unwrap().total, 2 << 20);
        assert_eq!((facts.memlock, facts.wanted), (None, 7));
        assert_eq!(facts.huge_pages.as_deref(), Some("madvise"));
        tree.directory("sys/bus/pci/drivers/vfio-pci");
        let facts = HostFacts::read(&tree.sysfs(), &tree.paths(), MemoryConfig::new(7));
        assert_eq!(facts.vfio_pci, Module::Present);
    }

    #[test]
    fn a_host_that_says_nothing() {
        let tree = Tree::new();
        let facts = HostFacts::read(&tree.sysfs(), &tree.paths(), MemoryConfig::new(7));
        assert_eq!((facts.cpu, facts.kvm), (Cpu::default(), Node::Missing));
        assert_eq!(facts.vfio_pci, Module::Absent);
        assert_eq!(facts.huge_pages, None);
        assert!(!may_lock_any(&tree.paths().proc));
    }

    #[test]
    fn a_device_with_its_nodes() {
        let tree = Tree::new();
        let bdf = "0000:01:00.0";
        tree.device(bdf, "0x010802", Some("vfio-pci"), Some(7))
            .file("dev/vfio/7", "");
        let facts = DeviceFacts::read(&tree.sysfs(), &tree.paths(), tree.find(bdf), false);
        let facts = facts.unwrap();
        assert_eq!((facts.members.len(), facts.group_node), (1, Node::Usable));
        assert_eq!(
            facts.cdev,
            Some(("/dev/vfio/devices/vfio0".into(), Node::Missing))
        );
        assert!(facts.uses.is_empty());
    }
}
