//! A machine with Intel's VMX and EPT, and with CPUs that take turns: Bochs in place of QEMU.
//!
//! QEMU's emulator has no VMX, and its nested SVM is not reliable with several CPUs. Bochs
//! interprets each instruction, so it is slow. Its CPUs run in one thread, each for a few
//! instructions at a time ([`Slice`]). Such a machine shows interleavings of several CPUs that one
//! CPU never has. It shows no reordering of memory accesses.
//!
//! The machine boots from a CD, because Bochs has no loader for Linux. It has no IOMMU; a mediated
//! device needs none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use crate::emulator::Emulator;
use crate::error::{Context, Error, Result};
use crate::host;
use crate::listen::{Ear, Ended, Quiet, listen};
use crate::transcript::{Line, Speaker};

/// The boot loader of the CD, and the part of it that it reads from the CD.
const LOADER: &str = "/usr/lib/ISOLINUX/isolinux.bin";
const LOADER_CORE: &str = "/usr/lib/syslinux/modules/bios/ldlinux.c32";
/// The machine's firmware.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// How many instructions of a CPU are a second of the machine's clocks.
const IPS: u32 = 100_000_000;

/// A model with AVX2. Linux can use its XSAVE.
pub const BROADWELL: &str = "broadwell_ult";
/// A newer model. Bochs 2.7 reports PKRU without the size of that component, so Linux does not use
/// this model's XSAVE ("XSAVE consistency problem").
pub const ICE_LAKE: &str = "corei7_icelake_u";

/// How many instructions a CPU runs before the next CPU's turn.
///
/// The option `quantum` of Bochs changes nothing of that: Debian's program contains the debugger,
/// whose commands have their own turns. A program without the debugger gives each CPU one piece of
/// code without a jump, and takes `quantum` for a CPU that is halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// One instruction.
    One,
    /// Five instructions.
    Five,
}

impl Slice {
    /// Commands of the debugger that let the machine run until the lab ends it. A step has at most
    /// 2^32 - 1 instructions, and the machine waits for nobody between two steps.
    fn commands(self) -> String {
        match self {
            Self::One => "step all 4294967295\n".repeat(100),
            Self::Five => "continue\n".into(),
        }
    }
}

/// A machine that Bochs emulates.
#[derive(Clone, Debug)]
pub struct Bochs {
    /// The CPU model, by Bochs' name.
    pub model: &'static str,
    /// The number of CPUs.
    pub cpus: u32,
    /// How many instructions a CPU runs before the next CPU's turn.
    pub slice: Slice,
    /// RAM in MiB.
    pub memory: u32,
}

impl Bochs {
    /// Two CPUs with VMX and EPT, of one of Bochs' models.
    pub fn with_vmx(model: &'static str) -> Self {
        Self {
            model,
            cpus: 2,
            slice: Slice::Five,
            memory: 1024,
        }
    }

    /// Checks that this machine has Bochs and the tools that make the CD.
    ///
    /// # Errors
    /// The missing parts.
    pub fn find() -> Result<PathBuf> {
        let bochs = host::program("bochs");
        let mut missing: Vec<&str> = Vec::new();
        if bochs.is_none() {
            missing.push("bochs");
        }
        if host::program("xorriso").is_none() {
            missing.push("xorriso");
        }
        let files = [LOADER, LOADER_CORE, BIOS, VGA_BIOS];
        missing.extend(files.into_iter().filter(|file| !Path::new(file).is_file()));
        match bochs {
            Some(bochs) if missing.is_empty() => Ok(bochs),
            _ => Err(Error::cannot_run(
                format!("this machine lacks {}", missing.join(", ")),
                "make deps-intel",
            )),
        }
    }

    /// Runs the machine until the end of L1's script. `dir` contains the initramfs, and receives
    /// the logs.
    ///
    /// # Errors
    /// The machine cannot be started.
    pub fn run(
        &self,
        parameters: &str,
        dir: &Path,
        kernel: &Path,
        limit: Duration,
        heard: &mut dyn FnMut(&Line),
    ) -> Result<Ended> {
        let bochs = Self::find()?;
        make_cd(dir, kernel, parameters)?;
        let serial = fifo(&dir.join("serial"))?;
        fs::write(dir.join("bochsrc"), self.configuration(dir)).context("write bochsrc")?;
        fs::write(dir.join("commands"), self.slice.commands())
            .context("write the debugger's commands")?;
        let started = Instant::now();
        let terminal = Terminal::open().context("open a terminal for Bochs")?;
        let errors = File::create(dir.join("bochs.err")).context("make Bochs' log")?;
        let mut command = Command::new(bochs);
        command
            .arg("-q")
            .arg("-f")
            .arg(dir.join("bochsrc"))
            .arg("-rc")
            .arg(dir.join("commands"))
            .env("TERM", "xterm")
            .stdin(terminal.side()?)
            .stdout(terminal.side()?)
            .stderr(Stdio::piped());
        let mut emulator = Emulator::start(command, None)?;
        terminal.drain();
        let messages = emulator.take_stderr();
        std::thread::spawn(move || keep_messages(messages, errors));
        let mut quiet = |_| match emulator.has_ended() {
            true => Quiet::Ended,
            false => Quiet::Runs,
        };
        let ear = Ear {
            heard,
            quiet: &mut quiet,
            // Bochs goes on after L1 has powered off.
            is_last: &|line| line.from == Speaker::Lab && line.text.starts_with("script "),
        };
        listen(serial, dir, started, limit, ear)
    }

    fn configuration(&self, dir: &Path) -> String {
        let at = |name: &str| dir.join(name).display().to_string();
        [
            "config_interface: textconfig".to_owned(),
            "display_library: term".to_owned(),
            format!(
                "cpu: model={}, count={}, ips={IPS}, reset_on_triple_fault=0, ignore_bad_msrs=1",
                self.model, self.cpus
            ),
            format!("memory: guest={0}, host={0}", self.memory),
            format!("romimage: file={BIOS}"),
            format!("vgaromimage: file={VGA_BIOS}"),
            "pci: enabled=1, chipset=i440fx".to_owned(),
            "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14".to_owned(),
            format!(
                "ata0-master: type=cdrom, path={}, status=inserted",
                at("l1.iso")
            ),
            "boot: cdrom".to_owned(),
            format!("com1: enabled=1, mode=file, dev={}", at("serial")),
            format!("com2: enabled=1, mode=file, dev={}", at("l1-kernel.log")),
            "clock: sync=none".to_owned(),
            format!("log: {}", at("bochs.log")),
            "panic: action=report".to_owned(),
            "error: action=report".to_owned(),
            "info: action=ignore".to_owned(),
            "debug: action=ignore".to_owned(),
            String::new(),
        ]
        .join("\n")
    }
}

/// Makes l1.iso, from which ISOLINUX loads the kernel and the initramfs.
fn make_cd(dir: &Path, kernel: &Path, parameters: &str) -> Result<()> {
    let tree = dir.join("cd");
    fs::create_dir_all(&tree).context("make the CD's directory")?;
    for (from, name) in [
        (Path::new(LOADER), "isolinux.bin"),
        (Path::new(LOADER_CORE), "ldlinux.c32"),
        (kernel, "vmlinuz"),
    ] {
        fs::copy(from, tree.join(name)).context(format!("copy {}", from.display()))?;
    }
    fs::rename(dir.join("l1.cpio"), tree.join("l1.cpio")).context("move the initramfs")?;
    // - The CPUs count time in instructions, `ips` to the second, so the kernel cannot calibrate
    //   anything against another clock. CPUID of the newer models names a frequency that is 15
    //   times as high, by which every timer would take 15 times as long.
    // - An idle CPU must not wait by MWAIT: in Bochs 2.7, MONITOR does not hear a store by another
    //   CPU that has the page in its TLB, and the CPU sleeps until its next timer.
    let options = format!(
        "DEFAULT l1\nLABEL l1\nKERNEL vmlinuz\nINITRD l1.cpio\nAPPEND console=ttyS1 panic=-1 \
         idle=nomwait tsc=reliable tsc_early_khz={} lpj=1000000 nokaslr loglevel=5{parameters}\n",
        IPS / 1000
    );
    fs::write(tree.join("isolinux.cfg"), options).context("write isolinux.cfg")?;
    host::output(
        Command::new("xorriso")
            .args([
                "-as",
                "mkisofs",
                "-quiet",
                "-b",
                "isolinux.bin",
                "-c",
                "boot.cat",
            ])
            .args([
                "-no-emul-boot",
                "-boot-load-size",
                "4",
                "-boot-info-table",
                "-o",
            ])
            .arg(dir.join("l1.iso"))
            .arg(&tree),
    )?;
    fs::rename(tree.join("l1.cpio"), dir.join("l1.cpio")).context("move the initramfs")?;
    fs::remove_dir_all(&tree).context("remove the CD's directory")
}

/// Makes a FIFO and opens it for reading. The open does not wait for Bochs, because this process
/// holds the other end as well.
fn fifo(path: &Path) -> Result<File> {
    host::output(Command::new("mkfifo").arg(path))?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context(format!("open {}", path.display()))
}

/// Writes Bochs' messages to a file. One of them names Bochs' screen.
fn keep_messages(messages: ChildStderr, mut file: File) {
    let lines = BufReader::new(messages).split(b'\n');
    for line in lines.map_while(io::Result::ok) {
        let line = String::from_utf8_lossy(&line);
        // A log that cannot be written is not worth the machine.
        let _ = writeln!(file, "{line}");
        if let Some(path) = screen(&line)
            && let Ok(screen) = open_terminal(Path::new(path))
        {
            drain(screen);
        }
    }
}

/// The terminal that Bochs, if it contains the debugger, makes for the machine's screen.
fn screen(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("connected to screen \"")?;
    rest.split('"').next()
}

/// Reads what a program writes to a terminal, until the program ends. A full terminal would stop
/// the program, and with it the machine.
fn drain(mut terminal: File) {
    std::thread::spawn(move || {
        let mut page = [0; 4096];
        while terminal.read(&mut page).is_ok_and(|n| n > 0) {}
    });
}

/// Opens a terminal that does not become this process's controlling terminal.
fn open_terminal(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    options.custom_flags(libc::O_NOCTTY).open(path)
}

/// A terminal for Bochs' debugger, whose answers nobody looks at.
struct Terminal {
    master: File,
    path: PathBuf,
}

impl Terminal {
    fn open() -> io::Result<Self> {
        let master = open_terminal(Path::new("/dev/ptmx"))?;
        let (mut number, unlock): (libc::c_uint, libc::c_int) = (0, 0);
        // SAFETY: both requests (ioctl_tty(2)) take a pointer to an int, which outlives the call.
        let failed = unsafe {
            libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock) < 0
                || libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut number) < 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            master,
            path: PathBuf::from(format!("/dev/pts/{number}")),
        })
    }

    /// The side of the program.
    fn side(&self) -> Result<Stdio> {
        let side = open_terminal(&self.path).context(format!("open {}", self.path.display()))?;
        Ok(side.into())
    }

    /// Reads what the program writes, until the program ends.
    fn drain(self) {
        drain(self.master);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_is_found_in_the_messages() {
        let message = "Bochs connected to screen \"/dev/pts/7\"";
        assert_eq!(screen(message), Some("/dev/pts/7"));
        assert_eq!(screen("ALSA lib pcm.c: Unknown PCM default"), None);
    }

    /// More than a terminal holds.
    #[test]
    fn a_terminal_without_a_reader_does_not_stop_its_writer() {
        let terminal = Terminal::open().unwrap();
        let mut side = open_terminal(&terminal.path).unwrap();
        terminal.drain();
        side.write_all(&[b'x'; 1 << 20]).unwrap();
    }
}
