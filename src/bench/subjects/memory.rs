//! The options of `--memory` in the words of other VMMs: all guests have the same pages behind
//! their memory, or the run is refused (QEMU's manual, system emulation, "-object
//! memory-backend-memfd").

use vmm::config::memory::{HugePage, MemoryConfig, Pages};

use crate::error::{Error, Result};
use crate::subjects::peer::Peer;

/// Checks that a VMM's guest can have the same memory as a guest of mini-vmm.
///
/// # Errors
/// The VMM has no counterpart of an option.
pub fn check(peer: Peer, memory: &MemoryConfig) -> Result<()> {
    let is_qemu = peer.program() == "qemu-system-x86_64";
    let option = match memory.pages {
        Pages::Small => Some("hugepages=off"),
        Pages::Huge(HugePage::Mib2) if !is_qemu => Some("hugepages=2M"),
        Pages::Huge(HugePage::Gib1) if !is_qemu => Some("hugepages=1G"),
        _ if !is_qemu && memory.prefault.is_some() => Some("prefault"),
        _ if !is_qemu && memory.shared => Some("shared=on"),
        _ => None,
    };
    let Some(option) = option else {
        return Ok(());
    };
    let error = Error::new(format!(
        "{} has nothing equal to the option {option} of --memory, so its guest would have other \
         memory",
        peer.program()
    ));
    Err(error.with_hint(match memory.pages {
        Pages::Small => {
            "leave hugepages=off out; without huge pages for all: echo never | sudo tee \
             /sys/kernel/mm/transparent_hugepage/enabled"
        }
        _ => "leave the option out of --memory, or the VMM out of --peer",
    }))
}

/// The same memory in QEMU's words, besides its size; nothing if mini-vmm and QEMU agree without
/// words.
pub(super) fn qemu(memory: &MemoryConfig) -> Vec<String> {
    let prealloc = match memory.prefault {
        Some(true) => ",prealloc=on",
        _ => "",
    };
    let pages = match memory.pages {
        Pages::Huge(HugePage::Mib2) => ",hugetlb=on,hugetlbsize=2M",
        Pages::Huge(HugePage::Gib1) => ",hugetlb=on,hugetlbsize=1G",
        Pages::Transparent | Pages::Small => "",
    };
    let is_file = memory.shared || !pages.is_empty();
    if !is_file && prealloc.is_empty() {
        return Vec::new();
    }
    let (kind, sharing) = match (is_file, memory.shared) {
        (false, _) => ("ram", ""),
        (true, true) => ("memfd", ",share=on"),
        // The default of a memfd is to be shared.
        (true, false) => ("memfd", ",share=off"),
    };
    let mib = memory.size >> 20;
    [
        "-object",
        &format!("memory-backend-{kind},id=ram,size={mib}M{sharing}{pages}{prealloc}"),
        "-machine",
        "memory-backend=ram",
    ]
    .map(str::to_owned)
    .into()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use vmm::config::memory;

    use super::*;

    #[test]
    fn qemu_has_the_same_pages() {
        for (option, wanted) in [
            ("512M", ""),
            ("512M,check=off", ""),
            ("512M,hugepages=thp", ""),
            ("512M,prefault=off", ""),
            (
                "512M,prefault=on",
                "-object memory-backend-ram,id=ram,size=512M,prealloc=on \
                 -machine memory-backend=ram",
            ),
            (
                "512M,shared=on",
                "-object memory-backend-memfd,id=ram,size=512M,share=on \
                 -machine memory-backend=ram",
            ),
            (
                "1G,hugepages=2M,prefault=on",
                "-object memory-backend-memfd,id=ram,size=1024M,share=off,hugetlb=on,\
                 hugetlbsize=2M,prealloc=on -machine memory-backend=ram",
            ),
            (
                "1G,hugepages=1G,shared=on",
                "-object memory-backend-memfd,id=ram,size=1024M,share=on,hugetlb=on,\
                 hugetlbsize=1G -machine memory-backend=ram",
            ),
        ] {
            let memory = memory::parse(option).unwrap();
            assert!(check(Peer::QemuVfio, &memory).is_ok(), "{option}");
            assert_eq!(qemu(&memory).join(" "), wanted, "{option}");
        }
    }

    #[test]
    fn what_cannot_be_made_equal_is_refused() {
        for peer in Peer::value_variants() {
            let refused = |option: &str| check(*peer, &memory::parse(option).unwrap()).is_err();
            let is_qemu = peer.program().starts_with("qemu");
            assert!(refused("512M,hugepages=off"), "{peer:?}");
            assert!(!refused("512M") && !refused("512M,check=off"), "{peer:?}");
            for option in [
                "512M,hugepages=2M",
                "1G,hugepages=1G",
                "512M,prefault=on",
                "512M,shared=on",
            ] {
                assert_eq!(refused(option), !is_qemu, "{peer:?} {option}");
            }
        }
        let error = check(Peer::Crosvm, &memory::parse("512M,shared=on").unwrap()).unwrap_err();
        assert!(error.to_string().contains("shared=on"), "{error}");
    }
}
