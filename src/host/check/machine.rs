//! Checks of the host as a whole: processor, KVM, IOMMU, VFIO, memory.

use crate::check::finding::{Finding, Level};
use crate::check::memory::memory;
use crate::details::size_text;
use crate::facts::{HostFacts, Maker, Module, Node};

pub(super) fn check(host: &HostFacts) -> Vec<Finding> {
    let findings = [
        Some(processor(host)),
        Some(kvm(host)),
        Some(iommu(host)),
        interrupts(host),
        Some(vfio_pci(host)),
        Some(container(host)),
        Some(iommufd(host)),
        memory(host),
        Some(memlock(host)),
        Some(huge_pages(host)),
    ];
    let findings = findings.into_iter().flatten();
    findings
        .map(|finding| name_confinement(host, finding))
        .collect()
}

/// The remedy that sets a kernel parameter permanently on common distributions.
fn parameter(text: &str) -> String {
    format!(
        "boot with {text}: add it to GRUB_CMDLINE_LINUX in /etc/default/grub, then as root: \
         update-grub (or grub2-mkconfig -o /boot/grub2/grub.cfg); reboot"
    )
}

fn processor(host: &HostFacts) -> Finding {
    const NAME: &str = "processor";
    match (host.cpu.virtualisation, host.kvm) {
        (Some(flag), _) => Finding::pass(NAME, format!("virtualises in hardware ({flag})")),
        (None, Node::Missing) => Finding::fail(
            NAME,
            "cannot virtualise, or the firmware has turned that off",
            match host.cpu.maker {
                Maker::Intel => "turn VT-x on in the firmware",
                Maker::Amd => "turn SVM (AMD-V) on in the firmware",
                Maker::Other => {
                    "turn virtualisation on in the firmware; in a virtual machine, enable nesting"
                }
            },
        ),
        (None, _) => Finding::warn(
            NAME,
            "shows neither vmx nor svm, though there is a /dev/kvm",
            "expect a slow guest; in a virtual machine, enable nested virtualisation",
        ),
    }
}

fn kvm(host: &HostFacts) -> Finding {
    const NAME: &str = "kvm";
    match host.kvm {
        Node::Usable => Finding::pass(NAME, "/dev/kvm may be used"),
        Node::Denied => Finding::fail(
            NAME,
            "/dev/kvm may not be used by this user",
            "as root: usermod -aG kvm $USER (with your user's name for $USER), then log in again",
        ),
        Node::Missing => Finding::fail(
            NAME,
            "there is no /dev/kvm",
            match host.cpu.maker {
                Maker::Intel => "as root: modprobe kvm_intel",
                Maker::Amd => "as root: modprobe kvm_amd",
                Maker::Other => "as root: modprobe kvm_intel (or kvm_amd)",
            },
        ),
    }
}

fn iommu(host: &HostFacts) -> Finding {
    const NAME: &str = "iommu";
    let iommu = &host.iommu;
    if !iommu.units.is_empty() && iommu.groups > 0 {
        let units = iommu.units.join(", ");
        return Finding::pass(NAME, format!("in use ({units}), {} groups", iommu.groups));
    }
    let described = match iommu.tables.as_slice() {
        ["DMAR", ..] => Some(("DMAR", "intel_iommu=on")),
        ["IVRS", ..] => Some(("IVRS", "amd_iommu=on (and without iommu=off)")),
        _ => None,
    };
    match described {
        Some((table, setting)) => Finding::fail(
            NAME,
            format!("the firmware describes an IOMMU ({table}), but the kernel does not use it"),
            parameter(setting),
        ),
        None => Finding::fail(
            NAME,
            "none: the firmware describes no IOMMU",
            match host.cpu.maker {
                Maker::Intel => "turn VT-d on in the firmware, and boot with intel_iommu=on",
                Maker::Amd => "turn IOMMU (AMD-Vi) on in the firmware",
                Maker::Other => {
                    "turn VT-d or AMD-Vi on in the firmware, and boot Intel's with intel_iommu=on"
                }
            },
        ),
    }
}

/// Checks interrupt remapping; `None` without an IOMMU. Containers and iommufd each have a switch
/// that allows devices without interrupt remapping. The check reads the switch of the interface
/// that a run would use: iommufd if it is available.
fn interrupts(host: &HostFacts) -> Option<Finding> {
    const NAME: &str = "interrupt-remapping";
    if host.iommu.units.is_empty() {
        return None;
    }
    let (module, allowed) = if has_iommufd(host) {
        ("iommufd", host.iommu.iommufd_unsafe)
    } else {
        ("vfio_iommu_type1", host.iommu.container_unsafe)
    };
    let switch = format!("/sys/module/{module}/parameters/allow_unsafe_interrupts");
    Some(match (host.iommu.remapping, allowed) {
        (true, _) => Finding::pass(NAME, "interrupts go through the IOMMU"),
        (false, true) => Finding::warn(
            NAME,
            "off, and VFIO accepts that: a guest's device can raise any interrupt of the host",
            format!(
                "turn it on in the firmware and boot without intremap=off, then as root: \
                 echo N > {switch}"
            ),
        ),
        (false, false) => Finding::fail(
            NAME,
            "off: VFIO refuses devices that could raise any interrupt of the host",
            format!(
                "turn it on in the firmware (also called x2APIC) and boot without intremap=off; \
                 or, if you trust the guest, as root: echo Y > {switch}"
            ),
        ),
    })
}

fn vfio_pci(host: &HostFacts) -> Finding {
    const NAME: &str = "vfio-pci";
    match host.vfio_pci {
        Module::Present => Finding::pass(NAME, "the driver is available"),
        Module::Loadable => Finding::warn(
            NAME,
            "the driver is not loaded",
            "as root: modprobe vfio-pci",
        ),
        Module::Absent => Finding::fail(
            NAME,
            format!("kernel {} has no driver vfio-pci", host.kernel),
            "boot a kernel with CONFIG_VFIO_PCI, or install the package with this one's modules",
        ),
    }
}

/// Whether devices can be opened by iommufd, so that containers are not needed.
fn has_iommufd(host: &HostFacts) -> bool {
    host.iommufd_node == Node::Usable
}

fn container(host: &HostFacts) -> Finding {
    const NAME: &str = "vfio-container";
    let (text, fix) = match (host.container_node, host.type1) {
        (Node::Usable, Module::Present) => {
            return Finding::pass(NAME, "groups and containers may be used");
        }
        (Node::Denied, _) => (
            "/dev/vfio/vfio may not be used by this user",
            "as root: chmod 666 /dev/vfio/vfio (it gives no access to any device)",
        ),
        (_, Module::Absent) => (
            "this kernel has no groups and containers",
            "boot a kernel with CONFIG_VFIO_IOMMU_TYPE1, or use iommufd",
        ),
        _ => (
            "groups and containers are not loaded",
            "as root: modprobe vfio_iommu_type1 && modprobe vfio-pci",
        ),
    };
    if has_iommufd(host) || host.type1 == Module::Loadable {
        Finding::warn(NAME, text, fix)
    } else {
        Finding::fail(NAME, text, fix)
    }
}

/// Checks iommufd. A missing iommufd is at most a warning, because a run can use a container.
fn iommufd(host: &HostFacts) -> Finding {
    const NAME: &str = "iommufd";
    match (host.iommufd_node, host.iommufd) {
        (Node::Usable, _) => Finding::pass(NAME, "/dev/iommu may be used"),
        (Node::Denied, _) => Finding::warn(
            NAME,
            "/dev/iommu may not be used by this user; containers are used instead",
            "as root: chown $USER /dev/iommu (with your user's name for $USER)",
        ),
        (Node::Missing, Module::Absent) => {
            Finding::pass(NAME, "not in this kernel; containers are used instead")
        }
        (Node::Missing, _) => Finding::warn(
            NAME,
            "not loaded; containers are used instead",
            "as root: modprobe iommufd",
        ),
    }
}

/// Checks the limit of locked memory. VFIO pins all memory of the guest, and pinned memory counts
/// against the limit: of this process (drivers/vfio/vfio_iommu_type1.c), or with iommufd of all the
/// user's processes together (drivers/iommu/iommufd/pages.c).
fn memlock(host: &HostFacts) -> Finding {
    const NAME: &str = "memlock";
    let wanted = size_text(host.wanted);
    let sum = host.wanted.saturating_add(host.locked_by_others.bytes());
    match host.memlock {
        None => Finding::pass(NAME, "this user may lock any amount of memory"),
        Some(limit) if limit >= host.wanted && limit < sum => {
            let others = &host.locked_by_others;
            let kib = sum.div_ceil(1024) + 64 * 1024;
            Finding::warn(
                NAME,
                format!(
                    "this user may lock {}, and {} locked {} of it: iommufd counts all processes \
                     of a user together, so that {wanted} more are too much",
                    size_text(limit),
                    others.in_words(),
                    size_text(others.bytes())
                ),
                format!(
                    "ulimit -l {kib} as root before the run; or run with --iommu container, which \
                     counts each process for itself"
                ),
            )
        }
        Some(limit) if limit >= host.wanted => Finding::pass(
            NAME,
            format!(
                "this user may lock {}, enough for {wanted}",
                size_text(limit)
            ),
        ),
        Some(limit) => {
            let kib = host.wanted.div_ceil(1024) + 64 * 1024;
            Finding::fail(
                NAME,
                format!(
                    "this user may lock {} of memory, and a guest of {wanted} locks all of its \
                     memory",
                    size_text(limit)
                ),
                format!(
                    "ulimit -l {kib} as root before the run; for good, a line `* - memlock {kib}` \
                     in /etc/security/limits.conf, then log in again"
                ),
            )
        }
    }
}

/// Names what keeps this process from a node that the host has, in the finding about that node: a
/// control group, for example. The remedies for permissions and modules would not help.
fn name_confinement(host: &HostFacts, finding: Finding) -> Finding {
    let node = match finding.name {
        "kvm" => "/kvm",
        "vfio-container" => "/vfio/vfio",
        "iommufd" => "/iommu",
        _ => return finding,
    };
    let confined = host.confined.iter().find(|(path, _)| path.ends_with(node));
    let (Some((path, cause)), false) = (confined, finding.level == Level::Pass) else {
        return finding;
    };
    let fix = cause.hint(path, "", "");
    Finding {
        text: format!("{path} may not be used{cause}"),
        fix: fix.or(finding.fix),
        ..finding
    }
}

/// Checks transparent huge pages (Documentation/admin-guide/mm/transhuge.rst). A run requests them
/// with madvise(2), so the mode `madvise` is enough.
fn huge_pages(host: &HostFacts) -> Finding {
    const NAME: &str = "huge-pages";
    match host.huge_pages.as_deref() {
        Some(mode @ ("always" | "madvise")) => {
            Finding::pass(NAME, format!("the guest's memory gets them ({mode})"))
        }
        Some(mode) => Finding::warn(
            NAME,
            format!("off ({mode}): the guest starts and runs slower"),
            "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        None => Finding::warn(
            NAME,
            "this kernel has no transparent huge pages: the guest starts and runs slower",
            "boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        ),
    }
}
