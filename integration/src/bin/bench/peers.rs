//! Other VMMs and what is typed for the same guest: pure functions from a guest to a command line.
//! Flags: QEMU's manual, system emulation, "Invocation"; Cloud Hypervisor, docs/vfio.md; Firecracker,
//! docs/getting-started.md and docs/initrd.md; alioth's and crosvm's `--help`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lab::tiny::Then;
use lab::{Error, Result};

/// A VMM that the bench knows how to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This project's.
    MiniVmm,
    /// Its general machine, the only one with PCI as real hardware has it.
    QemuQ35,
    /// Its small machine, without PCI.
    QemuMicrovm,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// Firecracker, which takes no bzImage on x86, and VFIO in its newest versions only: for part 1.
    Firecracker,
    /// alioth.
    Alioth,
    /// crosvm.
    Crosvm,
}

impl Kind {
    /// The kind of a name that PEERS knows.
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "cloud-hypervisor" => Self::CloudHypervisor,
            "firecracker" => Self::Firecracker,
            "alioth" => Self::Alioth,
            "crosvm" => Self::Crosvm,
            _ => return None,
        })
    }

    /// How a guest resets its machine by one write: mini-vmm's ACPI reset register, the reset control
    /// register of Intel's chipsets, or the keyboard controller's command. The others have none of these, or end.
    pub fn reset(self) -> Option<Then> {
        match self {
            Self::MiniVmm => Some(Then::Reset(0x602, 1)),
            Self::QemuQ35 => Some(Then::Reset(0xcf9, 6)),
            Self::CloudHypervisor | Self::Crosvm => Some(Then::Reset(0x64, 0xfe)),
            Self::QemuMicrovm | Self::Firecracker | Self::Alioth => None,
        }
    }

    /// Whether it takes devices by VFIO, with all that the lab's guests do with them.
    pub fn has_vfio(self) -> bool {
        matches!(
            self,
            Self::MiniVmm | Self::QemuQ35 | Self::CloudHypervisor | Self::Crosvm
        )
    }
}

/// A VMM and its program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is called in tables.
    pub name: String,
    /// Which it is.
    pub kind: Kind,
    /// The program, on L0.
    pub program: PathBuf,
}

impl Peer {
    /// Whether PEERS named it.
    pub fn is_given(&self) -> bool {
        Kind::of(&self.name) == Some(self.kind)
    }
}

/// Reads PEERS: words of "name=/path/to/program".
pub fn parse(text: &str) -> Result<Vec<Peer>> {
    text.split_whitespace()
        .map(|word| {
            let peer = word.split_once('=').and_then(|(name, path)| {
                Some(Peer {
                    name: name.to_owned(),
                    kind: Kind::of(name)?,
                    program: path.into(),
                })
            });
            let peer = peer.ok_or_else(|| {
                Error::cannot_run(
                    format!("PEERS holds {word:?}, which is no peer that the bench can start"),
                    "PEERS=\"cloud-hypervisor=/path/to/binary\"; firecracker, alioth and crosvm are known too",
                )
            })?;
            if peer.program.is_file() {
                Ok(peer)
            } else {
                Err(Error::cannot_run(
                    format!("PEERS names {}, and there is no such file", peer.program.display()),
                    "give the path of a program",
                ))
            }
        })
        .collect()
}

/// A guest, the same for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest<'a> {
    /// Kernel: an ELF with a PVH note, or a bzImage.
    pub kernel: &'a Path,
    /// Initial RAM file system.
    pub initrd: Option<&'a Path>,
    /// Kernel parameters.
    pub cmdline: &'a str,
    /// vCPUs.
    pub cpus: u32,
    /// RAM in MiB.
    pub mib: u32,
    /// PCI addresses of devices to pass through.
    pub devices: &'a [&'a str],
    /// What follows the number of vCPUs, for mini-vmm alone: ",idle=native".
    pub cpu_options: &'a str,
    /// What follows the size of RAM, for mini-vmm alone: ",hugepages=2M".
    pub memory_options: &'a str,
}

/// Firecracker takes its guest from a file; the others need none.
pub fn config_file(kind: Kind, guest: &Guest<'_>) -> Option<String> {
    (kind == Kind::Firecracker).then(|| {
        serde_json::json!({
            "boot-source": {
                "kernel_image_path": guest.kernel,
                "initrd_path": guest.initrd,
                "boot_args": guest.cmdline,
            },
            "drives": [],
            "machine-config": { "vcpu_count": guest.cpus, "mem_size_mib": guest.mib },
        })
        .to_string()
    })
}

/// What is typed after the program's name for the guest's first serial port to be standard output.
/// `config` is where [`config_file`]'s text is.
pub fn arguments(kind: Kind, guest: &Guest<'_>, config: &Path) -> Vec<OsString> {
    let mut words = Words::default();
    let Guest { cpus, mib, .. } = guest;
    match kind {
        Kind::MiniVmm => {
            words.path("--kernel", guest.kernel);
            words.optional("--initrd", guest.initrd);
            words.cmdline("--cmdline", guest);
            words.text(&["--cpus", &format!("{cpus}{}", guest.cpu_options)]);
            words.text(&["--memory", &format!("{mib}M{}", guest.memory_options)]);
            for bdf in guest.devices {
                words.text(&["--vfio", bdf]);
            }
        }
        Kind::QemuQ35 | Kind::QemuMicrovm => {
            let machine = match kind {
                Kind::QemuQ35 => "q35,accel=kvm,usb=off,vmport=off",
                _ => "microvm,accel=kvm,isa-serial=on,auto-kernel-cmdline=off",
            };
            words.text(&["-machine", machine, "-cpu", CPU]);
            words.text(&["-nodefaults", "-no-user-config", "-display", "none"]);
            words.text(&["-vga", "none", "-serial", "stdio", "-monitor", "none"]);
            words.text(&["-smp", &cpus.to_string(), "-m", &mib.to_string()]);
            words.path("-kernel", guest.kernel);
            words.optional("-initrd", guest.initrd);
            words.cmdline("-append", guest);
            for bdf in guest.devices {
                words.text(&["-device", &format!("vfio-pci,host={bdf}")]);
            }
        }
        Kind::CloudHypervisor => {
            words.path("--kernel", guest.kernel);
            words.optional("--initramfs", guest.initrd);
            words.cmdline("--cmdline", guest);
            words.text(&["--cpus", &format!("boot={cpus}")]);
            words.text(&["--memory", &format!("size={mib}M")]);
            words.text(&["--serial", "tty", "--console", "off"]);
            if !guest.devices.is_empty() {
                words.text(&["--device"]);
            }
            for bdf in guest.devices {
                words.text(&[&format!("path=/sys/bus/pci/devices/{bdf}/")]);
            }
        }
        Kind::Firecracker => {
            words.text(&["--no-api"]);
            words.path("--config-file", config);
        }
        Kind::Alioth => {
            let elf = guest.initrd.is_none();
            words.text(&["boot"]);
            words.path(if elf { "--pvh" } else { "--kernel" }, guest.kernel);
            words.optional("--initramfs", guest.initrd);
            words.cmdline("--cmdline", guest);
            words.text(&["--cpu", &format!("count={cpus}")]);
            words.text(&["--memory", &format!("size={mib}M")]);
        }
        Kind::Crosvm => {
            words.text(&["run", "--disable-sandbox"]);
            words.text(&["--cpus", &cpus.to_string(), "--mem", &mib.to_string()]);
            words.text(&["--serial", "type=stdout,hardware=serial,num=1,console=true"]);
            words.optional("--initrd", guest.initrd);
            words.cmdline("--params", guest);
            for bdf in guest.devices {
                words.text(&["--vfio", &format!("/sys/bus/pci/devices/{bdf}")]);
            }
            words.0.push(guest.kernel.into());
        }
    }
    words.0
}

/// Some KVMs have the register that tells of a CPU's flaws but take no value for it, and QEMU then
/// ends; no guest here reads it.
const CPU: &str = "host,arch-capabilities=off";

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn text(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    fn path(&mut self, flag: &str, path: &Path) {
        self.text(&[flag]);
        self.0.push(path.into());
    }

    fn optional(&mut self, flag: &str, path: Option<&Path>) {
        if let Some(path) = path {
            self.path(flag, path);
        }
    }

    fn cmdline(&mut self, flag: &str, guest: &Guest<'_>) {
        if !guest.cmdline.is_empty() {
            self.text(&[flag, guest.cmdline]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: Kind, guest: &Guest<'_>) -> String {
        let words = arguments(kind, guest, Path::new("/run/config"));
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    fn linux<'a>() -> Guest<'a> {
        Guest {
            kernel: Path::new("/k"),
            initrd: Some(Path::new("/i")),
            cmdline: "console=ttyS0",
            cpus: 2,
            mib: 512,
            devices: &["0000:00:05.0"],
            cpu_options: "",
            memory_options: "",
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
            "boot --kernel /k --initramfs /i --cmdline console=ttyS0 --cpu count=2 --memory size=512M"
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
        let text = config_file(Kind::Firecracker, &linux()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["machine-config"]["mem_size_mib"], 512);
        assert_eq!(json["boot-source"]["initrd_path"], "/i");
        assert_eq!(config_file(Kind::QemuQ35, &linux()), None);
    }

    #[test]
    fn peers_must_be_known_and_be_there() {
        assert_eq!(parse("").unwrap(), []);
        let me = std::env::current_exe().unwrap();
        let peers = parse(&format!("alioth={}", me.display())).unwrap();
        assert_eq!((peers[0].kind, &peers[0].program), (Kind::Alioth, &me));
        for bad in ["bhyve=/bin/sh", "alioth", "crosvm=/no/such/file"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
