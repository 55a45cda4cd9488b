//! Which structures are filled, and how.

use trace::decode::value::Kind;

const TEXT: &str = include_str!("variants.txt");

/// The structures of calls whose number does not name them, by the headers' comments.
const ARGUMENTS: [(&str, &str); 22] = [
    ("KVM_REINJECT_CONTROL", "struct kvm_reinject_control"),
    ("KVM_MEMORY_ENCRYPT_OP", "struct kvm_sev_cmd"),
    ("VFIO_GROUP_GET_STATUS", "struct vfio_group_status"),
    ("VFIO_GROUP_SET_CONTAINER", "__s32"),
    ("VFIO_DEVICE_GET_INFO", "struct vfio_device_info"),
    ("VFIO_DEVICE_GET_REGION_INFO", "struct vfio_region_info"),
    ("VFIO_DEVICE_GET_IRQ_INFO", "struct vfio_irq_info"),
    ("VFIO_DEVICE_SET_IRQS", "struct vfio_irq_set"),
    (
        "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
        "struct vfio_pci_hot_reset_info",
    ),
    ("VFIO_DEVICE_PCI_HOT_RESET", "struct vfio_pci_hot_reset"),
    (
        "VFIO_DEVICE_QUERY_GFX_PLANE",
        "struct vfio_device_gfx_plane_info",
    ),
    ("VFIO_DEVICE_GET_GFX_DMABUF", "__u32"),
    ("VFIO_DEVICE_IOEVENTFD", "struct vfio_device_ioeventfd"),
    ("VFIO_DEVICE_FEATURE", "struct vfio_device_feature"),
    (
        "VFIO_DEVICE_BIND_IOMMUFD",
        "struct vfio_device_bind_iommufd",
    ),
    (
        "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
        "struct vfio_device_attach_iommufd_pt",
    ),
    (
        "VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "struct vfio_device_detach_iommufd_pt",
    ),
    ("VFIO_MIG_GET_PRECOPY_INFO", "struct vfio_precopy_info"),
    ("VFIO_IOMMU_GET_INFO", "struct vfio_iommu_type1_info"),
    ("VFIO_IOMMU_MAP_DMA", "struct vfio_iommu_type1_dma_map"),
    ("VFIO_IOMMU_UNMAP_DMA", "struct vfio_iommu_type1_dma_unmap"),
    (
        "VFIO_IOMMU_DIRTY_PAGES",
        "struct vfio_iommu_type1_dirty_bitmap",
    ),
];

/// Calls whose argument is a number.
const NUMBERS: [&str; 9] = [
    "KVM_CREATE_VM",
    "KVM_CHECK_EXTENSION",
    "KVM_CREATE_VCPU",
    "KVM_SET_NR_MMU_PAGES",
    "KVM_SET_TSS_ADDR",
    "KVM_SET_BOOT_CPU_ID",
    "KVM_SET_TSC_KHZ",
    "VFIO_CHECK_EXTENSION",
    "VFIO_SET_IOMMU",
];

/// Calls of a vCPU, by the sections of linux/kvm.h.
const VCPU: [&str; 39] = [
    "KVM_RUN",
    "KVM_GET_REGS",
    "KVM_SET_REGS",
    "KVM_GET_SREGS",
    "KVM_SET_SREGS",
    "KVM_TRANSLATE",
    "KVM_INTERRUPT",
    "KVM_GET_FPU",
    "KVM_SET_FPU",
    "KVM_GET_LAPIC",
    "KVM_SET_LAPIC",
    "KVM_TPR_ACCESS_REPORTING",
    "KVM_SET_VAPIC_ADDR",
    "KVM_GET_MP_STATE",
    "KVM_SET_MP_STATE",
    "KVM_NMI",
    "KVM_SET_GUEST_DEBUG",
    "KVM_X86_SETUP_MCE",
    "KVM_X86_SET_MCE",
    "KVM_GET_VCPU_EVENTS",
    "KVM_SET_VCPU_EVENTS",
    "KVM_GET_DEBUGREGS",
    "KVM_SET_DEBUGREGS",
    "KVM_GET_XSAVE",
    "KVM_SET_XSAVE",
    "KVM_GET_XSAVE2",
    "KVM_GET_XCRS",
    "KVM_SET_XCRS",
    "KVM_GET_TSC_KHZ",
    "KVM_SET_TSC_KHZ",
    "KVM_KVMCLOCK_CTRL",
    "KVM_SMI",
    "KVM_GET_SREGS2",
    "KVM_SET_SREGS2",
    "KVM_GET_STATS_FD",
    "KVM_PRE_FAULT_MEMORY",
    "KVM_SET_CPUID",
    "KVM_GET_REG_LIST",
    "KVM_GET_ONE_REG",
];

/// Calls of /dev/kvm.
const SYSTEM: [&str; 5] = [
    "KVM_GET_API_VERSION",
    "KVM_CREATE_VM",
    "KVM_GET_VCPU_MMAP_SIZE",
    "KVM_X86_GET_MCE_CAP_SUPPORTED",
    "KVM_GET_MSR_FEATURE_INDEX_LIST",
];

/// What the argument of a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// None.
    None,
    /// A number.
    Number,
    /// The name of a device.
    Text,
    /// A pointer to a C type; `None` for the type in the call's number.
    To(Option<&'static str>),
}

/// A call to make.
#[derive(Clone, Debug)]
pub struct Line {
    /// The call.
    pub name: String,
    /// The kind of file.
    pub kind: Kind,
    /// The argument.
    pub argument: Argument,
    /// The words that say how to fill the argument.
    pub words: Vec<&'static str>,
}

impl Line {
    /// What follows a path and a sign in the words. Each index may be `[*]` there.
    pub fn after(&self, path: &str, sign: &str) -> Option<&'static str> {
        let any = any_index(path);
        self.words.iter().find_map(|word| {
            let (own, rest) = word.split_once(sign)?;
            (own == path || own == any).then_some(rest)
        })
    }

    /// Whether the field is not looked for.
    pub fn leaves_out(&self, path: &str) -> bool {
        let any = any_index(path);
        let mut without = self.words.iter().filter_map(|word| word.strip_prefix('-'));
        without.any(|own| own == path || own == any)
    }
}

fn any_index(path: &str) -> String {
    let mut any = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        let (_, after) = after.split_once(']').unwrap_or(("", after));
        any.push_str(before);
        any.push_str("[*]");
        rest = after;
    }
    any + rest
}

/// All calls of the list, those of variants.txt in each of their variants.
pub fn all(calls: &[&'static str]) -> Vec<Line> {
    let mut lines: Vec<Line> = TEXT
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap();
            assert!(calls.contains(&name), "no call {name}");
            let kind = kind(words.next().unwrap());
            let argument = match (name, kind) {
                ("KVM_MEMORY_ENCRYPT_OP", Kind::TdxVm | Kind::Vcpu) => {
                    Argument::To(Some("struct kvm_tdx_cmd"))
                }
                _ => argument(name),
            };
            Line {
                name: name.to_owned(),
                kind,
                argument,
                words: words.collect(),
            }
        })
        .collect();
    for name in calls {
        if !lines.iter().any(|line| line.name == *name) {
            lines.push(Line {
                name: (*name).to_owned(),
                kind: usual(name),
                argument: argument(name),
                words: Vec::new(),
            });
        }
    }
    lines
}

fn argument(name: &str) -> Argument {
    if NUMBERS.contains(&name) {
        return Argument::Number;
    }
    if name == "VFIO_GROUP_GET_DEVICE_FD" {
        return Argument::Text;
    }
    let found = ARGUMENTS.iter().find(|(call, _)| *call == name);
    if let Some((_, argument)) = found {
        return Argument::To(Some(argument));
    }
    match name {
        "IOMMU_FAULT_QUEUE_ALLOC" => Argument::To(Some("struct iommu_fault_alloc")),
        "IOMMU_GET_HW_INFO" => Argument::To(Some("struct iommu_hw_info")),
        // IOMMU_IOAS_MAP has struct iommu_ioas_map.
        name if name.starts_with("IOMMU_") => {
            let lower = format!("struct {}", name.to_lowercase());
            Argument::To(Some(lower.leak()))
        }
        name if name.starts_with("KVM_") => Argument::To(None),
        _ => Argument::None,
    }
}

/// The kind of file of a call that has one kind.
fn usual(name: &str) -> Kind {
    if name.starts_with("VFIO_GROUP_") {
        Kind::Group
    } else if name.starts_with("VFIO_DEVICE_") {
        Kind::Device
    } else if name.starts_with("VFIO_") {
        Kind::Container
    } else if name.starts_with("IOMMU_") {
        Kind::Iommufd
    } else if VCPU.contains(&name) {
        Kind::Vcpu
    } else if SYSTEM.contains(&name) {
        Kind::Kvm
    } else {
        Kind::Vm
    }
}

fn kind(word: &str) -> Kind {
    match word {
        "kvm" => Kind::Kvm,
        "vm" => Kind::Vm,
        "tdx-vm" => Kind::TdxVm,
        "vcpu" => Kind::Vcpu,
        "kvm-device" => Kind::KvmDevice,
        "container" => Kind::Container,
        "group" => Kind::Group,
        "device" => Kind::Device,
        "migration" => Kind::Migration,
        "iommufd" => Kind::Iommufd,
        other => panic!("no kind {other}"),
    }
}
