//! The description of L1, its QEMU command line, and running QEMU with a time limit.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bochs::Bochs;
use crate::debian::{self, Root};
use crate::disk::{Controller, Disk};
use crate::emulator::Emulator;
use crate::error::{Context, Result};
use crate::host::Host;
use crate::listen::{Ear, Ended, Quiet, listen};
use crate::nudge::Monitor;
use crate::terminal::{self, Terminal};
use crate::transcript::Line;

/// A network card, as QEMU arguments. The card reaches only QEMU's own network.
pub const NETWORK_CARD: [&str; 4] = [
    "-netdev",
    "user,id=net,restrict=on",
    "-device",
    "e1000e,netdev=net,addr=9,romfile=",
];

/// QEMU arguments for ttyS0 on the caller's terminal. With `mux`, QEMU has keys of its own, here
/// after Ctrl-]: Ctrl-A is mini-vmm's. With `signal=off`, Ctrl-C is for the machine.
const TERMINAL: [&str; 6] = [
    "-chardev",
    "stdio,id=terminal,mux=on,signal=off",
    "-serial",
    "chardev:terminal",
    "-echr",
    "0x1d",
];

/// The machine that QEMU emulates.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The number of CPUs. Each CPU has SVM.
    pub cpus: u32,
    /// RAM in MiB. It must hold the initramfs twice, and L2's RAM.
    pub memory: u32,
    /// Whether the CPUs have XSAVE, and AVX with it. This needs QEMU 8.2 or newer.
    pub xsave: bool,
    /// Whether the machine has an IOMMU.
    pub iommu: bool,
    /// Whether the IOMMU remaps interrupts.
    pub remapping: bool,
    /// Further parameters for L1's kernel, with a space before each.
    pub parameters: &'static str,
    /// Disks and their controllers.
    pub disks: Vec<Disk>,
    /// The device number of an NVMe disk with one of [Debian's root file systems](crate::debian),
    /// if there is one. Its image is `debian.img` in the machine's directory.
    pub debian: Option<(u8, Root)>,
    /// QEMU arguments for other devices; `{dir}` stands for the machine's directory.
    pub extra: Vec<String>,
    /// Files in the machine's directory that these devices need.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Programs of L0. The lab copies them to /bin of L1 and L2.
    pub programs: Vec<PathBuf>,
    /// Bochs in place of QEMU: a machine with Intel's VMX. The machine has no disks and no devices
    /// of QEMU.
    pub bochs: Option<Bochs>,
}

impl Machine {
    /// A machine with one CPU, an IOMMU, and enough RAM for a guest of 512 MiB. QEMU's emulation of
    /// nested SVM is not reliable with two CPUs: in about half of the runs, a busy guest of four
    /// vCPUs lost its page tables and shut down, and sometimes L1 itself shut down (QEMU 7.2 and
    /// 11.1). With one CPU, neither ever happened.
    pub fn with_disks(disks: &[Disk]) -> Self {
        Self {
            cpus: 1,
            memory: 1536,
            xsave: false,
            iommu: true,
            remapping: true,
            parameters: "",
            disks: disks.to_vec(),
            debian: None,
            extra: Vec::new(),
            files: Vec::new(),
            programs: Vec::new(),
            bochs: None,
        }
    }

    /// A machine with a device of another kind, as QEMU arguments.
    pub fn with_device(arguments: &[&str]) -> Self {
        Self {
            extra: arguments.iter().map(|&text| text.to_owned()).collect(),
            ..Self::with_disks(&[])
        }
    }

    /// Creates the images and files in the machine's directory.
    pub fn furnish(&self, dir: &Path) -> Result<()> {
        for disk in &self.disks {
            disk.create(&dir.join(format!("{}.img", disk.serial)))?;
        }
        if let Some((_, root)) = self.debian {
            let image = dir.join("debian.img");
            fs::copy(debian::image(root)?, &image).context(format!("make {}", image.display()))?;
        }
        for (name, data) in &self.files {
            let path = dir.join(name);
            fs::write(&path, data).context(format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// The QEMU command. QEMU's standard output is ttyS0, to which L1's init writes. L1's kernel
    /// writes to ttyS1.
    pub fn command(&self, host: &Host, dir: &Path, kernel: &Path) -> Command {
        self.command_with(&["-serial", "stdio"], host, dir, kernel)
    }

    /// The QEMU command with arguments for ttyS0.
    fn command_with(&self, serial: &[&str], host: &Host, dir: &Path, kernel: &Path) -> Command {
        let mut qemu = Command::new(&host.qemu);
        // Plain emulation (TCG); interrupt remapping needs QEMU's own interrupt controllers.
        qemu.args(["-machine", "q35,accel=tcg,kernel-irqchip=off"]);
        // Nested paging (npt) makes L2 fast. These features are off:
        // - la57: with five levels of page tables, each of the many page walks would take longer.
        // - xsave: QEMU before 8.2 does not let L1's KVM intercept XSETBV, see `newer_qemu`.
        // - erms, fsrm: QEMU emulates string instructions byte by byte. Without these features, the
        // kernels clear and copy pages word by word.
        // mini-vmm takes a K8 with XSAVE, the `max` of some versions, for a QEMU before 8.2. A
        // processor of family 23 has XSAVE.
        let rest = match self.xsave {
            true => "family=23,model=1,stepping=2",
            false => "-xsave",
        };
        let model = format!("max,+svm,+npt,-la57,-erms,-fsrm,{rest}");
        qemu.args(["-cpu", &model]);
        qemu.arg("-smp").arg(self.cpus.to_string());
        qemu.arg("-m").arg(self.memory.to_string());
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
        qemu.args(["-display", "none"]).args(serial);
        qemu.arg("-serial")
            .arg(format!("file:{}", dir.join("l1-kernel.log").display()));
        if self.iommu {
            let remapping = if self.remapping { "on" } else { "off" };
            qemu.arg("-device").arg(format!(
                "intel-iommu,intremap={remapping},caching-mode=off,aw-bits=48"
            ));
        }
        for (controller, device) in [
            (
                Controller::NvmeBehindBridge,
                "pcie-pci-bridge,id=bridge,addr=1e",
            ),
            (Controller::SataBehindPort, "pcie-root-port,id=root,addr=1c"),
        ] {
            if self.disks.iter().any(|disk| disk.controller == controller) {
                qemu.args(["-device", device]);
            }
        }
        for disk in &self.disks {
            let serial = disk.serial;
            qemu.arg("-drive").arg(format!(
                "if=none,id={serial},format=raw,file={}",
                dir.join(format!("{serial}.img")).display()
            ));
            let others = self
                .disks
                .iter()
                .any(|other| other.device == disk.device && other.function != disk.function);
            for device in disk.devices(others) {
                qemu.arg("-device").arg(device);
            }
        }
        if let Some((device, _)) = self.debian {
            let image = dir.join("debian.img");
            qemu.arg("-drive").arg(format!(
                "if=none,id=debian,format=raw,file={}",
                image.display()
            ));
            qemu.arg("-device")
                .arg(format!("nvme,drive=debian,serial=debian,addr={device:x}"));
        }
        for argument in &self.extra {
            qemu.arg(argument.replace("{dir}", &dir.display().to_string()));
        }
        qemu.arg("-kernel").arg(kernel);
        qemu.arg("-initrd").arg(dir.join("l1.cpio"));
        let iommu = if self.iommu { " intel_iommu=on" } else { "" };
        // Without no_timer_check, the kernel counts ticks in a delay loop, and panics if a busy
        // host gives QEMU too little time.
        qemu.arg("-append").arg(format!(
            "console=ttyS1 panic=-1 no_timer_check loglevel=5{iommu}{}",
            self.parameters
        ));
        qemu
    }

    /// Runs the machine with ttyS0 on this process's terminal, until the machine powers off or
    /// somebody types Ctrl-] x. Returns QEMU's exit status.
    pub fn on_terminal(&self, host: &Host, dir: &Path, kernel: &Path) -> Result<u8> {
        let _terminal = Terminal::save();
        let qemu = self.command_with(&TERMINAL, host, dir, kernel);
        let mut qemu = Emulator::start(qemu, None)?;
        terminal::end_by_signals(qemu.id())?;
        let status = qemu.wait()?;
        Ok(status.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    /// Runs the machine until it powers off. `dir` contains the images and the initramfs, and
    /// receives the logs. `heard` is called with each line when it arrives.
    pub fn run(
        &self,
        host: &Host,
        dir: &Path,
        kernel: &Path,
        limit: Duration,
        heard: &mut dyn FnMut(&Line),
    ) -> Result<Ended> {
        if let Some(bochs) = &self.bochs {
            return bochs.run(self.parameters, dir, kernel, limit, heard);
        }
        let errors = File::create(dir.join("qemu.log")).context("make QEMU's log")?;
        let started = Instant::now();
        let mut command = self.command(host, dir, kernel);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        let monitor = Monitor::add(&mut command)?;
        let mut qemu = Emulator::start(command, Some(monitor.keep()))?;
        let nudge = RefCell::new(monitor.watch(qemu.id(), dir)?);
        let serial = qemu.take_stdout();
        let mut heard = |line: &Line| {
            nudge.borrow_mut().hear(line);
            heard(line);
        };
        let mut quiet = |silent| match nudge.borrow_mut().look(silent) {
            true => Quiet::Noted("QEMU seemed to hang, and the lab woke it"),
            false => Quiet::Runs,
        };
        let ear = Ear {
            heard: &mut heard,
            quiet: &mut quiet,
            // QEMU ends when L1 powers off.
            is_last: &|_| false,
        };
        listen(serial, dir, started, limit, ear)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_one_slot_are_declared_as_such() {
        let mut second = Disk::new("b", 7);
        second.function = 1;
        let machine = Machine::with_disks(&[Disk::new("a", 7), second, Disk::new("c", 8)]);
        let host = Host {
            qemu: PathBuf::from("qemu"),
            busybox: PathBuf::from("busybox"),
        };
        let command = machine.command(&host, Path::new("/d"), Path::new("/k"));
        let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        for wanted in [
            "nvme,drive=a,serial=a,addr=7.0,multifunction=on",
            "nvme,drive=b,serial=b,addr=7.1,multifunction=on",
            "nvme,drive=c,serial=c,addr=8.0",
        ] {
            assert!(args.iter().any(|arg| arg == wanted), "{wanted} in {args:?}");
        }
        assert!(args.iter().any(|arg| arg.contains("intel_iommu=on")));
    }
}
