//! What system calls besides ioctl(2), and exits of the guest, are for, and where they are
//! described. What ioctls are for stands in table/calls.txt.

use crate::decode::calls::Why;
use crate::decode::value::Kind;
use crate::files::open_file::FileKind;

const KVM_RUN: &str = "Documentation/virt/kvm/api.rst 5";
const VFIO: &str = "Documentation/driver-api/vfio.rst";

/// What a system call on a file is for. `None` for the file means guest memory.
pub fn of_call(name: &str, file: Option<FileKind>) -> Option<Why> {
    use FileKind::{Calls, Eventfd};
    let (text, document) = match (name, file) {
        ("open" | "openat" | "openat2", file) => opened(file?)?,
        ("eventfd" | "eventfd2", _) => (
            "Makes a counter by which one side signals another: an interrupt, or a thread.",
            "eventfd(2)",
        ),
        ("read", Some(Eventfd)) => (
            "Takes the counter, which is zero then: how often the other side has signalled.",
            "eventfd(2)",
        ),
        ("write", Some(Eventfd)) => (
            "Signals: adds to the counter, and wakes who waits for it, be it a thread or KVM.",
            "eventfd(2)",
        ),
        ("pread64" | "read", Some(Calls(Kind::Device))) => (
            "Reads a register of the device through its driver: configuration space, or a BAR.",
            VFIO,
        ),
        ("pwrite64" | "write", Some(Calls(Kind::Device))) => (
            "Writes a register of the device through its driver: configuration space, or a BAR.",
            VFIO,
        ),
        ("pread64" | "read" | "pwrite64" | "write", Some(Calls(Kind::IommufdOther))) => (
            "Takes events of the IOMMU, such as faults of a device, or answers them.",
            "Documentation/userspace-api/iommufd.rst",
        ),
        ("mmap", Some(Calls(Kind::Vcpu))) => (
            "Maps the page where KVM says why KVM_RUN has returned, and the ring of kept writes.",
            KVM_RUN,
        ),
        ("mmap", Some(Calls(Kind::Device))) => (
            "Maps a BAR, so that an access reaches the device without a call or an exit.",
            VFIO,
        ),
        ("mmap", _) => (
            "Maps memory: the guest's, or what replaces a mapping.",
            "mmap(2)",
        ),
        ("munmap", _) => ("Ends a mapping.", "munmap(2)"),
        ("mremap", _) => ("Moves a mapping, or changes its size.", "mremap(2)"),
        ("madvise", _) => (
            "Says how memory will be used: to be made present, given back, or of huge pages.",
            "madvise(2)",
        ),
        ("dup" | "dup2" | "dup3" | "fcntl", _) => {
            ("Makes another descriptor of the same open file.", "dup(2)")
        }
        ("pidfd_getfd", _) => (
            "Takes a descriptor from another process; the open file is the same.",
            "pidfd_getfd(2)",
        ),
        ("close", _) => (
            "Gives a descriptor back; with the last one, what stands behind the file ends.",
            "close(2)",
        ),
        _ => return None,
    };
    Some(Why { text, document })
}

/// What opening a node is for.
fn opened(file: FileKind) -> Option<(&'static str, &'static str)> {
    Some(match file {
        FileKind::Calls(Kind::Kvm) => (
            "Opens KVM: what it can do is asked here, and machines are made.",
            "Documentation/virt/kvm/api.rst 2",
        ),
        FileKind::Calls(Kind::Container) => (
            "Opens a container: an address space of the IOMMU, without devices yet.",
            VFIO,
        ),
        FileKind::Calls(Kind::Group) => (
            "Opens an IOMMU group: devices that the IOMMU cannot tell apart, so they go together.",
            VFIO,
        ),
        FileKind::Calls(Kind::Device) => (
            "Opens a device by its own node; an IOMMU must be given before it answers.",
            VFIO,
        ),
        FileKind::Calls(Kind::Iommufd) => (
            "Opens iommufd, which makes address spaces of the IOMMU as objects.",
            "Documentation/userspace-api/iommufd.rst",
        ),
        _ => return None,
    })
}

/// What a return of KVM_RUN is for, by the kernel's name of the reason; `None` if the call has
/// failed.
pub fn of_exit(reason: Option<&str>, write: bool) -> Why {
    let text = match (reason, write) {
        (Some("KVM_EXIT_IO"), true) => "The guest has written a port: what answers there must act.",
        (Some("KVM_EXIT_IO"), false) => {
            "The guest reads a port, and waits for the answer until KVM_RUN is called again."
        }
        (Some("KVM_EXIT_MMIO"), true) => {
            "The guest has written where no memory is: what answers there must act."
        }
        (Some("KVM_EXIT_MMIO"), false) => {
            "The guest reads where no memory is, and waits for the answer until the next KVM_RUN."
        }
        (Some("KVM_EXIT_HLT"), _) => "The guest waits for an interrupt.",
        (Some("KVM_EXIT_SHUTDOWN"), _) => "The guest cannot go on: a fault in handling a fault.",
        (Some("KVM_EXIT_INTERNAL_ERROR"), _) => "KVM cannot go on, as with an unknown instruction.",
        (Some("KVM_EXIT_FAIL_ENTRY"), _) => "The processor refuses the guest's state.",
        (Some("KVM_EXIT_MEMORY_FAULT"), _) => "The guest's memory is missing, or of another kind.",
        (Some("KVM_EXIT_SYSTEM_EVENT"), _) => "The guest wants to be reset or switched off.",
        (Some("KVM_EXIT_X86_RDMSR" | "KVM_EXIT_X86_WRMSR"), _) => {
            "The guest accesses a model-specific register that is left to the VMM."
        }
        (Some(_), _) => "KVM leaves to the VMM what it does not do itself.",
        (None, _) => "A signal, or immediate_exit, has called the thread out of the guest.",
    };
    Why {
        text,
        document: KVM_RUN,
    }
}

/// What a write that KVM has kept is for.
pub const KEPT: Why = Why {
    text: "The guest has written and gone on: KVM has kept the write for the next exit.",
    document: "Documentation/virt/kvm/api.rst 4.116",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_half_a_line() {
        let mut all = vec![KEPT];
        let files = [
            Kind::Kvm,
            Kind::Container,
            Kind::Group,
            Kind::Device,
            Kind::Iommufd,
            Kind::IommufdOther,
            Kind::Vcpu,
        ];
        for name in [
            "openat",
            "eventfd2",
            "read",
            "write",
            "pread64",
            "pwrite64",
            "mmap",
            "munmap",
            "mremap",
            "madvise",
            "dup3",
            "fcntl",
            "pidfd_getfd",
            "close",
        ] {
            let files = files.map(|kind| Some(FileKind::Calls(kind)));
            let files = files.into_iter().chain([Some(FileKind::Eventfd), None]);
            all.extend(files.filter_map(|file| of_call(name, file)));
        }
        for reason in [
            Some("KVM_EXIT_IO"),
            Some("KVM_EXIT_MMIO"),
            Some("KVM_EXIT_HLT"),
            None,
        ] {
            all.extend([true, false].map(|write| of_exit(reason, write)));
        }
        for why in all {
            assert!(why.text.ends_with('.') && why.text.len() <= 100, "{why:?}");
            let known = why.document.starts_with("Documentation/") || why.document.ends_with("(2)");
            assert!(known, "{why:?}");
        }
    }

    #[test]
    fn a_map_says_what_is_mapped() {
        let of = |kind| of_call("mmap", Some(FileKind::Calls(kind))).unwrap().text;
        assert!(of(Kind::Device).contains("BAR") && of(Kind::Vcpu).contains("KVM_RUN"));
        assert_eq!(of_call("openat", Some(FileKind::Eventfd)), None);
    }
}
