//! The kinds of subjects, and the differences between them.

use std::ffi::OsString;
use std::path::Path;

use super::arguments::Arguments;
use super::guest::Guest;
use super::mini_vmm::Abilities;
use super::{alioth, bare_calls, cloud_hypervisor, crosvm, firecracker, mini_vmm, qemu};
use crate::tiny::Then;
use crate::watch::counters::{Counter, QMP, STATS};

/// A kind of subject that the bench can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bare system calls.
    BareCalls,
    /// The bare system calls without CPUID.
    BareCallsWithoutCpuid,
    /// mini-vmm.
    MiniVmm,
    /// mini-vmm without its sandbox.
    MiniVmmUnconfined,
    /// QEMU with the general machine, q35.
    QemuQ35,
    /// QEMU with the small machine, microvm.
    QemuMicrovm,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// Firecracker.
    Firecracker,
    /// alioth.
    Alioth,
    /// crosvm.
    Crosvm,
}

impl Kind {
    /// The kind for a name in the variable PEERS.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "cloud-hypervisor" => Self::CloudHypervisor,
            "firecracker" => Self::Firecracker,
            "alioth" => Self::Alioth,
            "crosvm" => Self::Crosvm,
            _ => return None,
        })
    }

    /// The program's arguments for this guest. The guest's first serial port is the program's
    /// standard output. `config` is the path of the file with [`Self::config_file`]'s text.
    pub fn arguments(self, guest: &Guest<'_>, config: &Path) -> Vec<OsString> {
        let words = match self {
            Self::BareCalls => bare_calls::arguments(guest, true),
            Self::BareCallsWithoutCpuid => bare_calls::arguments(guest, false),
            Self::MiniVmm => mini_vmm::arguments(guest),
            Self::MiniVmmUnconfined => mini_vmm::unconfined(guest),
            Self::QemuQ35 => qemu::arguments(qemu::Q35, guest),
            Self::QemuMicrovm => qemu::arguments(qemu::MICROVM, guest),
            Self::CloudHypervisor => cloud_hypervisor::arguments(guest),
            Self::Firecracker => firecracker::arguments(config),
            Self::Alioth => alioth::arguments(guest),
            Self::Crosvm => crosvm::arguments(guest),
        };
        words.into_words()
    }

    /// The text of the file that describes the guest, for a VMM that needs such a file.
    pub fn config_file(self, guest: &Guest<'_>) -> Option<String> {
        (self == Self::Firecracker).then(|| firecracker::config_file(guest))
    }

    /// The guest's way to reset its machine by one write: mini-vmm's ACPI reset register, the reset
    /// control register of Intel's chipsets, or a command of the keyboard controller. `None` for
    /// VMMs that have none of these, or that exit on a reset.
    pub fn reset(self) -> Option<Then> {
        match self {
            Self::MiniVmm => Some(Then::Reset(0x602, 1)),
            Self::QemuQ35 => Some(Then::Reset(0xcf9, 6)),
            Self::CloudHypervisor | Self::Crosvm => Some(Then::Reset(0x64, 0xfe)),
            Self::BareCalls
            | Self::BareCallsWithoutCpuid
            | Self::MiniVmmUnconfined
            | Self::QemuMicrovm
            | Self::Firecracker
            | Self::Alioth => None,
        }
    }

    /// Whether this VMM passes devices through with VFIO, and supports all that the lab's guests do
    /// with a device.
    pub fn has_vfio(self) -> bool {
        matches!(
            self,
            Self::MiniVmm | Self::QemuQ35 | Self::CloudHypervisor | Self::Crosvm
        )
    }

    /// Whether the program's standard input must be a terminal.
    pub fn needs_terminal(self) -> bool {
        self == Self::Alioth
    }

    /// Whether the VMM's firmware takes seconds under an emulated /dev/kvm.
    pub fn has_slow_firmware(self) -> bool {
        self == Self::QemuQ35
    }

    /// The way to read the VMM's counters.
    pub fn counter(self, abilities: Abilities) -> Counter {
        match self {
            Self::MiniVmm if abilities.stats => Counter::Stats,
            Self::MiniVmm => Counter::Signal,
            Self::QemuQ35 => Counter::Qmp,
            _ => Counter::None,
        }
    }

    /// Further arguments that let the bench watch the VMM.
    pub fn watched(self) -> Vec<OsString> {
        match self {
            Self::QemuQ35 => qemu::watched(QMP).into_words(),
            _ => Vec::new(),
        }
    }

    /// Further arguments that make the VMM count as much as it can.
    pub fn counting(self, abilities: Abilities) -> Vec<OsString> {
        let mut words = Arguments::default();
        if self.counter(abilities) == Counter::Stats {
            words.text(&[&format!("--stats={STATS}")]);
        }
        words.into_words()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: Kind, guest: &Guest<'_>) -> String {
        let words = kind.arguments(guest, Path::new("/run/config"));
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    fn linux<'a>() -> Guest<'a> {
        Guest {
            initrd: Some(Path::new("/i")),
            cmdline: "console=ttyS0",
            cpus: 2,
            devices: &["0000:00:05.0"],
            ..Guest::new(Path::new("/k"))
        }
    }

    #[test]
    fn every_vmm_gets_the_whole_guest() {
        for kind in [
            Kind::MiniVmm,
            Kind::QemuQ35,
            Kind::CloudHypervisor,
            Kind::Crosvm,
        ] {
            assert!(kind.has_vfio());
            let line = line(kind, &linux());
            for word in ["/k", "/i", "console=ttyS0", "512", "0000:00:05.0", "2"] {
                assert!(line.contains(word), "{word} in {kind:?}: {line}");
            }
        }
        let alioth = line(Kind::Alioth, &linux());
        assert_eq!(
            alioth,
            "boot --kernel /k --initramfs /i --cmdline console=ttyS0 \
             --cpu count=2 --memory size=512M"
        );
    }

    #[test]
    fn a_guest_without_more_has_no_empty_flags() {
        let guest = Guest {
            initrd: None,
            cmdline: "",
            devices: &[],
            ..linux()
        };
        assert_eq!(
            line(Kind::MiniVmm, &guest),
            "--kernel /k --cpus 2 --memory 512M"
        );
        assert_eq!(
            line(Kind::MiniVmmUnconfined, &guest),
            "--kernel /k --cpus 2 --memory 512M --sandbox off"
        );
        let tuned = Guest {
            cpu_options: ",idle=native",
            memory_options: ",hugepages=2M",
            ..guest.clone()
        };
        assert_eq!(
            line(Kind::MiniVmm, &tuned),
            "--kernel /k --cpus 2,idle=native --memory 512M,hugepages=2M"
        );
        assert_eq!(line(Kind::QemuQ35, &tuned), line(Kind::QemuQ35, &guest));
        assert!(!line(Kind::CloudHypervisor, &guest).contains("--device"));
        assert!(line(Kind::Alioth, &guest).contains("--pvh /k"));
    }

    #[test]
    fn firecracker_reads_a_file() {
        assert_eq!(
            line(Kind::Firecracker, &linux()),
            "--no-api --config-file /run/config"
        );
        let text = Kind::Firecracker.config_file(&linux()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["machine-config"]["mem_size_mib"], 512);
        assert_eq!(json["boot-source"]["initrd_path"], "/i");
        assert_eq!(Kind::QemuQ35.config_file(&linux()), None);
    }
}
