//! A turn of a guest of QEMU (its manual, system emulation, "Invocation"). For a turn with the
//! device itself, `mini-vmm host bind` takes the device from the host's driver and `host unbind`
//! gives it back; if this program is killed in between, `host unbind` does it.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use vmm::config::memory;

use crate::error::{Context, Error, Result};
use crate::guest::{ANY_DISK, SEED};
use crate::subjects::host;
use crate::subjects::mini_vmm::{Guest, Vcpus};
use crate::subjects::peer::Peer;
use crate::subjects::program::Program;
use crate::subjects::trial::Trial;
use crate::work::disk;
use crate::work::task::{Engine, Task};

/// What a turn needs besides the guest.
pub struct Turn<'a> {
    /// QEMU.
    pub program: &'a Program,
    /// The way in which the guest has the disk.
    pub peer: Peer,
    /// Whether the guest's idle loop causes no exits.
    pub native_idle: bool,
    /// A mini-vmm, which binds the device.
    pub binder: &'a Program,
    /// The device's directory in sysfs.
    pub device: &'a Path,
}

impl Turn<'_> {
    /// Does the work of a turn.
    ///
    /// # Errors
    /// The device cannot be bound, the guest or QEMU has failed, or the user has ended the
    /// measurement.
    pub fn trial(&self, guest: &Guest, task: &Task, seed: u64) -> Result<Trial> {
        // The disk must be back, whatever subject had it before.
        let node = host::wait_for_disk(self.device, task)?;
        let bound = match self.peer.is_assigned() {
            true => Some(Bound::take(self.binder, &guest.address)?),
            false => None,
        };
        // While QEMU reads the disk, nobody else gets it (open(2), O_EXCL).
        let held = match self.peer.is_assigned() {
            true => None,
            false => Some(disk::open(&node, false)?),
        };
        let mut command = Command::new(&self.program.path);
        let disk = self.disk(guest, &node, task)?;
        command.args(self.machine(guest, seed)).args(disk);
        let trial = guest.run(command, &self.program.path, task, Vcpus::Pin, None);
        drop(held);
        if let Some(bound) = bound {
            bound.give_back()?;
        }
        trial
    }

    /// The arguments of the machine: what mini-vmm's guest has, too.
    fn machine(&self, guest: &Guest, seed: u64) -> Vec<String> {
        let any = if self.peer.is_assigned() {
            ""
        } else {
            ANY_DISK
        };
        let cmdline = format!(
            "console=ttyS0 quiet loglevel=4 panic=-1 {} {SEED}{seed} {any}",
            guest.cmdline
        );
        let cpus = guest.cpus.len().to_string();
        let memory = memory::parse(&guest.memory).map_or(0, |config| config.size >> 20);
        let memory = format!("{memory}M");
        let initrd = format!("/proc/self/fd/{}", guest.initramfs.as_raw_fd());
        let kernel = guest.kernel.display().to_string();
        let mut words = vec![
            ["-machine", "q35,accel=kvm,usb=off,vmport=off"],
            ["-cpu", cpu_model()],
            ["-smp", &cpus],
            ["-m", &memory],
            ["-kernel", &kernel],
            ["-initrd", &initrd],
            ["-append", cmdline.trim_end()],
            ["-display", "none"],
            ["-vga", "none"],
            ["-monitor", "none"],
            ["-serial", "stdio"],
            ["-name", "bench,debug-threads=on"],
        ];
        if self.native_idle {
            words.push(["-overcommit", "cpu-pm=on"]);
        }
        let flags = ["-nodefaults", "-no-user-config", "-no-reboot"];
        let words = words.iter().flatten().copied().chain(flags);
        words.map(str::to_owned).collect()
    }

    /// The arguments of the disk.
    fn disk(&self, guest: &Guest, node: &Path, task: &Task) -> Result<Vec<String>> {
        if self.peer.is_assigned() {
            let device = format!("vfio-pci,host={}", guest.address);
            return Ok(vec!["-device".into(), device]);
        }
        let aio = match task.engine {
            Engine::IoUring => "io_uring",
            Engine::Threads => "threads",
        };
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
        // Writes are for the disk alone that the user has named.
        let read_only = match task.destroy {
            Some(_) => "off",
            None => "on",
        };
        let mut words = vec![
            "-blockdev".to_owned(),
            format!(
                "driver=host_device,node-name=disk,filename={path},read-only={read_only},\
                 cache.direct=on,aio={aio}"
            ),
        ];
        words.extend(match self.peer {
            Peer::QemuNvme => vec![
                "-device".to_owned(),
                "nvme,id=nvme,serial=bench".to_owned(),
                "-device".to_owned(),
                format!("nvme-ns,bus=nvme,drive=disk{sizes}"),
            ],
            _ => vec![
                "-object".to_owned(),
                "iothread,id=disk-thread".to_owned(),
                "-device".to_owned(),
                format!("virtio-blk-pci,drive=disk,iothread=disk-thread{sizes}"),
            ],
        });
        Ok(words)
    }
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

/// The device, bound to vfio-pci. It goes back when this is dropped.
struct Bound<'a> {
    binder: &'a Program,
    address: &'a str,
    is_bound: bool,
}

impl<'a> Bound<'a> {
    fn take(binder: &'a Program, address: &'a str) -> Result<Self> {
        let mut bound = Self {
            binder,
            address,
            is_bound: true,
        };
        bound.host("bind").inspect_err(|_| bound.is_bound = false)?;
        Ok(bound)
    }

    fn give_back(mut self) -> Result<()> {
        self.is_bound = false;
        self.host("unbind")
    }

    /// Runs `mini-vmm host bind` or `unbind`. Ctrl-C on the terminal does not reach it.
    fn host(&self, what: &str) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let output = Command::new(&self.binder.path)
            .args(["host", what, self.address])
            .stdin(Stdio::null())
            .process_group(0)
            .output()
            .context(format!("cannot run {}", self.binder.path.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let words = format!("`mini-vmm host {what} {}` has failed", self.address);
        Err(Error::new(words).with_details(said.lines().map(str::to_owned)))
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        if self.is_bound
            && let Err(error) = self.host("unbind")
        {
            eprintln!("mini-vmm-bench: {error}");
            eprintln!("hint: mini-vmm host unbind {}", self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects::mini_vmm::in_memory;
    use crate::work::task::DiskId;

    fn line(peer: Peer, native_idle: bool, engine: Engine, destroy: Option<&str>) -> String {
        let program = Program {
            path: "/bin/qemu".into(),
            version: "QEMU".into(),
            sha256: String::new(),
        };
        let turn = Turn {
            program: &program,
            peer,
            native_idle,
            binder: &program,
            device: Path::new("/sys/none"),
        };
        let guest = Guest {
            kernel: "/boot/k".into(),
            initramfs: in_memory(b"").unwrap(),
            cmdline: "more".into(),
            memory: "256M".into(),
            cpus: vec![2, 3],
            address: "0000:01:00.0".into(),
        };
        let task = Task {
            works: Vec::new(),
            warm_up_ms: 1,
            measure_ms: 1,
            engine,
            disk: DiskId {
                wwid: None,
                sectors: 8,
            },
            destroy: destroy.map(str::to_owned),
        };
        let disk = turn.disk(&guest, Path::new("/dev/disk,1"), &task).unwrap();
        [turn.machine(&guest, 7), disk].concat().join(" ")
    }

    #[test]
    fn no_way_lets_the_guest_write_unless_the_disk_was_named() {
        for peer in [Peer::QemuNvme, Peer::QemuVirtio] {
            let line = line(peer, false, Engine::IoUring, None);
            for word in [
                "filename=/dev/disk,,1,read-only=on,cache.direct=on,aio=io_uring",
                "-smp 2 ",
                "-m 256M ",
                "more mini_vmm_bench.seed=7 mini_vmm_bench.any_disk=1 ",
                "logical_block_size=512,physical_block_size=512",
            ] {
                assert!(line.contains(word), "{word} in {line}");
            }
            assert!(!line.contains("vfio") && !line.contains("cpu-pm"), "{line}");
            let named = super::tests::line(peer, false, Engine::IoUring, Some("S1"));
            assert!(named.contains("read-only=off,"), "{named}");
        }
        let threads = line(Peer::QemuVirtio, false, Engine::Threads, None);
        assert!(threads.contains("aio=threads"), "{threads}");
    }

    #[test]
    fn the_device_itself_is_no_drive() {
        let line = line(Peer::QemuVfio, true, Engine::IoUring, None);
        assert!(
            line.ends_with("-device vfio-pci,host=0000:01:00.0"),
            "{line}"
        );
        assert!(line.contains("-overcommit cpu-pm=on"), "{line}");
        for word in ["drive", "blockdev", "any_disk"] {
            assert!(!line.contains(word), "{word} in {line}");
        }
    }
}
