//! The command lines of other VMMs: QEMU (its manual, system emulation, "Invocation"), Cloud
//! Hypervisor (its docs/vfio.md, docs/cpu.md, docs/device_model.md), crosvm (its book, "Running
//! crosvm" and "VFIO"), Firecracker (its docs/getting-started.md, docs/api_requests), alioth (its
//! `boot --help`), OpenVMM (its guide, "CLI"). All guests have the same kernel, initramfs, kernel
//! parameters, virtual CPUs and memory.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use serde_json::json;
use vmm::config::memory;

use crate::error::{Error, Result};
use crate::guest::{ANY_DISK, RESET, RESTARTS};
use crate::subjects::boot::Boot;
use crate::subjects::memory::qemu as qemu_memory;
use crate::subjects::mini_vmm::{Guest, in_memory};
use crate::subjects::peer::Peer;
use crate::work::task::{Engine, Target, Task};

/// What a command line is made for.
pub(super) struct Line<'a> {
    /// The VMM.
    pub(super) peer: Peer,
    /// Whether the guest's idle loop causes no exits.
    pub(super) native_idle: bool,
    /// The guest.
    pub(super) guest: &'a Guest,
    /// The work.
    pub(super) task: &'a Task,
    /// What the VMM is started for.
    pub(super) boot: Boot,
    /// What the VMM has.
    pub(super) given: Given<'a>,
    /// Further words of the kernel's command line.
    pub(super) words: &'a str,
}

/// What a VMM has for its guest.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    /// The device, by its address.
    Device,
    /// The node of a disk.
    Disk(&'a Path),
    /// The file of a macvtap, and vhost's, which the VMM inherits.
    Port { tap: RawFd, vhost: Option<RawFd> },
}

/// The arguments, and a file that must stay open until the program has read it.
pub(super) struct Words {
    pub(super) words: Vec<String>,
    pub(super) file: Option<OwnedFd>,
}

impl Line<'_> {
    /// The arguments.
    ///
    /// # Errors
    /// There is no memory for a file that the program reads.
    pub(super) fn words(&self) -> Result<Words> {
        let mut file = None;
        let words = match self.peer {
            Peer::QemuVfio
            | Peer::QemuNvme
            | Peer::QemuVirtio
            | Peer::QemuE1000e
            | Peer::QemuVhost => self.qemu(),
            Peer::CloudHypervisor | Peer::CloudHypervisorVirtio => self.cloud_hypervisor(),
            Peer::Crosvm => self.crosvm(),
            Peer::Alioth => self.alioth(&cdev(Path::new("/sys"), &self.guest.address)?),
            Peer::Openvmm => self.openvmm(),
            Peer::Firecracker => {
                let config = in_memory(self.firecracker().as_bytes())?;
                let path = format!("/proc/self/fd/{}", config.as_raw_fd());
                file = Some(config);
                // PCI, because the guest looks for disks of PCI devices.
                words(&["--no-api", "--enable-pci", "--config-file", &path])
            }
        };
        Ok(Words { words, file })
    }

    /// The kernel's parameters.
    fn cmdline(&self) -> String {
        let mut own = match (self.given, self.boot) {
            (Given::Disk(_), _) => ANY_DISK.to_owned(),
            (Given::Device, Boot::Life) => RESET.to_owned(),
            (Given::Device | Given::Port { .. }, _) => String::new(),
        };
        // Firecracker ends when its guest restarts by the keyboard controller.
        if self.peer == Peer::Firecracker {
            own = format!("{own} reboot=k {RESTARTS}");
        }
        let Self { guest, words, .. } = self;
        let text = format!(
            "console=ttyS0 quiet loglevel=4 panic=-1 {} {words} {own}",
            guest.cmdline
        );
        text.trim_end().to_owned()
    }

    fn initrd(&self) -> String {
        format!("/proc/self/fd/{}", self.guest.initramfs.as_raw_fd())
    }

    fn kernel(&self) -> String {
        match self.boot {
            Boot::First => self.guest.tiny(),
            Boot::Work | Boot::Life => self.guest.kernel.display().to_string(),
        }
    }

    /// The guest's memory in MiB.
    fn mib(&self) -> u64 {
        memory::parse(&self.guest.memory).map_or(0, |config| config.size >> 20)
    }

    /// Writes are for the disk alone that the user has named.
    fn is_read_only(&self) -> bool {
        self.task.destroy.is_none()
    }

    /// Each virtual CPU with its CPU, such as `0=2:1=3`.
    fn affinity(&self, each: &str, between: &str, wrap: (&str, &str)) -> String {
        let cpus = self.guest.cpus.iter().enumerate();
        let cpus = cpus.map(|(number, cpu)| format!("{number}{each}{}{cpu}{}", wrap.0, wrap.1));
        cpus.collect::<Vec<_>>().join(between)
    }

    fn qemu(&self) -> Vec<String> {
        let cpus = self.guest.cpus.len().to_string();
        let mut model = cpu_model().to_owned();
        if self.native_idle {
            // KVM_HINTS_REALTIME (Documentation/virt/kvm/x86/cpuid.rst), which mini-vmm's guest has
            // with idle=native.
            model.push_str(",kvm-hint-dedicated=on");
        }
        let mut all = words(&[
            "-machine",
            "q35,accel=kvm,usb=off,vmport=off",
            "-cpu",
            &model,
            "-smp",
            &cpus,
            "-m",
            &format!("{}M", self.mib()),
            "-kernel",
            &self.kernel(),
            "-display",
            "none",
            "-vga",
            "none",
            "-monitor",
            "none",
            "-serial",
            "stdio",
            "-name",
            "bench,debug-threads=on",
            "-nodefaults",
            "-no-user-config",
        ]);
        if self.boot != Boot::First {
            all.extend(words(&[
                "-initrd",
                &self.initrd(),
                "-append",
                &self.cmdline(),
            ]));
        }
        if self.boot != Boot::Life {
            all.extend(words(&["-no-reboot"]));
        }
        if self.native_idle {
            all.extend(words(&["-overcommit", "cpu-pm=on"]));
        }
        let memory = memory::parse(&self.guest.memory);
        all.extend(memory.iter().flat_map(qemu_memory));
        match self.given {
            Given::Device => {
                let device = format!("vfio-pci,host={}", self.guest.address);
                all.extend(words(&["-device", &device]));
            }
            Given::Disk(node) => all.extend(self.qemu_disk(node)),
            Given::Port { tap, vhost } => all.extend(self.qemu_port(tap, vhost)),
        }
        all
    }

    /// A network card with the port's hardware address, to which alone the port listens. Without
    /// its option ROM, which has no use for a guest that is started with its kernel.
    fn qemu_port(&self, tap: RawFd, vhost: Option<RawFd>) -> Vec<String> {
        let mac = match &self.task.target {
            Target::Port(id) => id.mac.as_str(),
            Target::Disk(_) | Target::Function => "",
        };
        let (vhost, card) = match vhost {
            Some(vhost) => (format!(",vhost=on,vhostfd={vhost}"), "virtio-net-pci"),
            None => (String::new(), "e1000e"),
        };
        words(&[
            "-netdev",
            &format!("tap,id=port,fd={tap}{vhost}"),
            "-device",
            &format!("{card},netdev=port,mac={mac},romfile="),
        ])
    }

    fn qemu_disk(&self, node: &Path) -> Vec<String> {
        let aio = match self.task.engine {
            Engine::IoUring => "io_uring",
            Engine::Threads => "threads",
        };
        let read_only = if self.is_read_only() { "on" } else { "off" };
        // A comma in a value is doubled.
        let path = node.display().to_string().replace(',', ",,");
        let name = node.file_name().unwrap_or_default();
        let queue = Path::new("/sys/block").join(name).join("queue");
        let sizes = ["logical_block_size", "physical_block_size"].map(|name| {
            let size = fs::read_to_string(queue.join(name));
            let size = size.ok().and_then(|size| size.trim().parse::<u32>().ok());
            format!(",{name}={}", size.unwrap_or(512))
        });
        let sizes = sizes.concat();
        let mut all = words(&[
            "-blockdev",
            &format!(
                "driver=host_device,node-name=disk,filename={path},read-only={read_only},\
                 cache.direct=on,aio={aio}"
            ),
        ]);
        all.extend(match self.peer {
            Peer::QemuNvme => words(&[
                "-device",
                "nvme,id=nvme,serial=bench",
                "-device",
                &format!("nvme-ns,bus=nvme,drive=disk{sizes}"),
            ]),
            _ => words(&[
                "-object",
                "iothread,id=disk-thread",
                "-device",
                &format!("virtio-blk-pci,drive=disk,iothread=disk-thread{sizes}"),
            ]),
        });
        all
    }

    fn cloud_hypervisor(&self) -> Vec<String> {
        let cpus = self.guest.cpus.len();
        let affinity = self.affinity("@", ",", ("[", "]"));
        let mut all = words(&[
            "--kernel",
            &self.kernel(),
            "--initramfs",
            &self.initrd(),
            "--cmdline",
            &self.cmdline(),
            "--cpus",
            &format!("boot={cpus},affinity=[{affinity}]"),
            "--memory",
            &format!("size={}M", self.mib()),
            "--serial",
            "tty",
            "--console",
            "off",
        ]);
        all.extend(match self.given {
            Given::Device | Given::Port { .. } => words(&[
                "--device",
                &format!("path=/sys/bus/pci/devices/{}/", self.guest.address),
            ]),
            Given::Disk(node) => {
                let read_only = if self.is_read_only() { "on" } else { "off" };
                let no_rings = match self.task.engine {
                    Engine::IoUring => "off",
                    Engine::Threads => "on",
                };
                words(&[
                    "--disk",
                    &format!(
                        "path={},readonly={read_only},direct=on,_disable_io_uring={no_rings}",
                        node.display()
                    ),
                ])
            }
        });
        all
    }

    fn crosvm(&self) -> Vec<String> {
        let cpus = self.guest.cpus.len().to_string();
        words(&[
            "run",
            "--disable-sandbox",
            "--cpus",
            &cpus,
            "--cpu-affinity",
            &self.affinity("=", ":", ("", "")),
            "--mem",
            &self.mib().to_string(),
            "--serial",
            "type=stdout,hardware=serial,num=1,console=true",
            "--initrd",
            &self.initrd(),
            "--params",
            &self.cmdline(),
            "--vfio",
            &format!("/sys/bus/pci/devices/{}", self.guest.address),
            &self.kernel(),
        ])
    }

    /// `cdev`: the device's node.
    fn alioth(&self, cdev: &str) -> Vec<String> {
        let cpus = self.guest.cpus.len();
        words(&[
            "boot",
            "--kernel",
            &self.kernel(),
            "--initramfs",
            &self.initrd(),
            "--cmdline",
            &self.cmdline(),
            "--cpu",
            &format!("count={cpus}"),
            "--memory",
            // Huge pages where the kernel has some, as for the other guests.
            &format!("size={}M,transparent_hugepage=true", self.mib()),
            "--vfio-cdev",
            &format!("path={cdev}"),
        ])
    }

    fn openvmm(&self) -> Vec<String> {
        let cpus = self.guest.cpus.len().to_string();
        words(&[
            "--hypervisor",
            "kvm",
            "--kernel",
            &self.kernel(),
            "--initrd",
            &self.initrd(),
            "--cmdline",
            &self.cmdline(),
            "--processors",
            &cpus,
            "--memory",
            &format!("size={}M,shared=off", self.mib()),
            "--com1",
            "console",
            // The process ends with its guest.
            "--guest-shutdown-action",
            "exit",
            "--guest-reset-action",
            "exit",
            "--guest-crash-action",
            "exit:1",
            "--pcie-root-complex",
            "rc0",
            "--pcie-root-port",
            "rc0:rp0",
            "--vfio",
            &format!("host={},port=rp0", self.guest.address),
        ])
    }

    /// The text of the file that describes the guest to Firecracker.
    fn firecracker(&self) -> String {
        let engine = match self.task.engine {
            Engine::IoUring => "Async",
            Engine::Threads => "Sync",
        };
        let node = match self.given {
            Given::Disk(node) => node,
            Given::Device | Given::Port { .. } => Path::new(""),
        };
        json!({
            "boot-source": {
                "kernel_image_path": self.guest.kernel,
                "initrd_path": self.initrd(),
                "boot_args": self.cmdline(),
            },
            "drives": [{
                "drive_id": "disk",
                "path_on_host": node,
                "is_root_device": false,
                "is_read_only": self.is_read_only(),
                "io_engine": engine,
            }],
            "machine-config": {
                "vcpu_count": self.guest.cpus.len(),
                "mem_size_mib": self.mib(),
            },
        })
        .to_string()
    }
}

/// The node of a device that is bound to vfio-pci, below /dev/vfio/devices
/// (Documentation/driver-api/vfio.rst, "VFIO device cdev").
fn cdev(sys: &Path, address: &str) -> Result<String> {
    let directory = sys.join("bus/pci/devices").join(address).join("vfio-dev");
    let mut names = fs::read_dir(directory).into_iter().flatten().flatten();
    match names.next() {
        Some(name) => Ok(format!(
            "/dev/vfio/devices/{}",
            name.file_name().to_string_lossy()
        )),
        None => Err(Error::new(format!(
            "{address} has no node of its own, by which alioth opens a device"
        ))
        .with_hint("use a kernel with CONFIG_VFIO_DEVICE_CDEV (Linux 6.6), or leave out alioth")),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The processor's model. AMD's processors have no IA32_ARCH_CAPABILITIES; KVM offers the register
/// all the same, and where KVM itself is in a virtual machine, it may refuse the value that QEMU
/// writes, which ends QEMU.
fn cpu_model() -> &'static str {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match cpus.contains("AuthenticAMD") {
        true => "host,arch-capabilities=off",
        false => "host",
    }
}

#[cfg(test)]
mod tests;
