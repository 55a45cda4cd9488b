//! Golden transcripts of mini-vmm and QEMU with an NVMe disk: each gets a guest of some
//! instructions that finds the disk and enables its interrupts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::disk::Disk;
use lab::expect::{exit, expect, run};
use lab::host::{self, Host};
use lab::kept::{self, Files};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};

use super::kernels::Elf;
use super::qemu;
use super::transcript::{Order, stable, transcript};

const DISK: Disk = Disk::new("lab-disk", 5);
const FILES: Disk = Disk::new("files", 6);

const STABLE: &str = include_str!("../../../../tests/golden/trace/stable.txt");
/// What a machine decides, with another kernel in L1 or another QEMU below.
const HOST: &str = include_str!("../../../../tests/golden/trace/host.txt");
const MACHINE: &str = include_str!("../golden/trace-machine.txt");
const QEMU: &str = include_str!("../golden/trace-qemu-differs.txt");

pub fn ours() -> Scenario {
    let script = "mini-vmm-trace -o /run/trace -- mini-vmm --kernel /bin/tiny-kernel \
                  --memory 64M --vfio 0000:00:05.0 --iommu container";
    scenario("a_trace_transcript_of_mini_vmm", script, 0, "mini-vmm")
}

pub fn qemus() -> Scenario {
    let vmm = qemu::tiny("/bin/tiny-firmware", "0000:00:05.0");
    let script = format!("mini-vmm-trace -o /run/trace -- {vmm}");
    scenario("a_trace_transcript_of_qemu", &script, 3, "qemu")
        .machine(qemu::add)
        .inner_qemu()
        .apart()
}

fn scenario(name: &'static str, traced: &str, status: i32, golden: &'static str) -> Scenario {
    let script = format!(
        "{}bind_vfio 0000:00:05.0\nrun_as '' {traced}\nkeep /run/trace\n",
        kept::KEEP
    );
    Scenario::new(name)
        .built("mini-vmm-trace", vmm::tracer)
        .built("tiny-kernel", kernel)
        .built("tiny-firmware", firmware)
        .disks(&[DISK, FILES])
        .script(script, move |outcome| check(outcome, status, golden))
}

fn check(outcome: &Outcome, status: i32, name: &str) -> Result<()> {
    exit(&run(outcome, 0)?, status)?;
    let trace = Files::of(outcome, &FILES)?.text("trace")?;
    expect(!trace.contains(" ioctl 0x"), || {
        "a call is not decoded".into()
    })?;
    let own = if name == "qemu" { QEMU } else { "" };
    let patterns = format!("{STABLE}\n{MACHINE}\n{own}");
    let found = transcript(&trace, &patterns, Order::Thread);
    let found = format!("{}\n\n{found}", machine(outcome)?);
    let path = format!("integration/tests/lab/golden/trace-{name}.txt");
    compare(&host::workspace().join(path), &found)
}

/// The first line of a transcript: L1's kernel, and the version of the QEMU that emulates L1.
fn machine(outcome: &Outcome) -> Result<String> {
    let kernel = outcome
        .transcript
        .lab("l1-kernel")
        .next()
        .unwrap_or_default();
    let qemu = Host::find()?.qemu;
    let output = Command::new(&qemu).arg("--version").output();
    let output = output.map_err(|e| Error::failed(format!("{}: {e}", qemu.display())))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.lines().next().unwrap_or_default();
    Ok(format!("# Linux {kernel}, {version}"))
}

/// Compares with a golden file, or writes the file if BLESS is 1. With another kernel or another
/// QEMU than the file has, what these can do is left out.
fn compare(path: &Path, found: &str) -> Result<()> {
    let failed = |error| Error::failed(format!("{}: {error}", path.display()));
    if std::env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        return fs::write(path, found).map_err(failed);
    }
    let golden = fs::read_to_string(path).map_err(failed)?;
    let (machine, body) = golden.split_once('\n').unwrap_or_default();
    let (here, text) = found.split_once('\n').unwrap_or_default();
    let [golden, found] = match machine == here {
        true => [body, text].map(String::from),
        false => [body, text].map(|text| stable(text, HOST)),
    };
    let lines = golden.lines().zip(found.lines());
    let differ = lines.enumerate().find(|(_, (a, b))| a != b);
    let text = differ.map_or("one is longer".into(), |(at, (golden, found))| {
        format!("line {}\n- {golden}\n+ {found}", at + 2)
    });
    expect(golden == found, || {
        format!(
            "{} differs (BLESS=1 writes it anew): {text}",
            path.display()
        )
    })
}

/// Writes a file for L1.
fn write(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let dir = host::target().join("lab/traced");
    let path = dir.join(name);
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&path, bytes))
        .map_err(|error| Error::failed(format!("{}: {error}", path.display())))?;
    Ok(path)
}

/// CONFIG_ADDRESS and CONFIG_DATA.
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// Where the guest puts BAR 0.
const BAR: u32 = 0xd000_0000;
/// Where QEMU's NVMe controllers have MSI-X: the capability, and the table in BAR 0.
const MSIX: u8 = 0x40;
const TABLE: u32 = 0x2000;
const MSIX_ENABLED: u32 = 1 << 31;
const ALL_MASKED: u32 = 1 << 30;

/// Machine code that accesses ports in 32-bit or, with prefixes, in 16-bit code.
struct Code {
    bytes: Vec<u8>,
    /// The operand-size prefix of 32-bit operands.
    wide: &'static [u8],
    /// That of 16-bit operands.
    narrow: &'static [u8],
    device: u32,
}

impl Code {
    fn add(&mut self, parts: &[&[u8]]) -> &mut Self {
        parts.iter().for_each(|part| self.bytes.extend(*part));
        self
    }

    /// `mov dx, port`.
    fn port(&mut self, port: u16) -> &mut Self {
        self.add(&[self.narrow, &[0xba], &port.to_le_bytes()])
    }

    /// `mov eax, value; out dx, eax`.
    fn out(&mut self, port: u16, value: u32) -> &mut Self {
        let (wide, value) = (self.wide, value.to_le_bytes());
        self.port(port);
        self.add(&[wide, &[0xb8], &value, wide, &[0xef]])
    }

    fn select(&mut self, register: u8) -> &mut Self {
        let address = 1 << 31 | self.device << 11 | u32::from(register);
        self.out(ADDRESS, address)
    }

    /// Reads a register of the disk's configuration space: `in eax, dx`.
    fn read(&mut self, register: u8) -> &mut Self {
        self.select(register).port(DATA);
        self.add(&[self.wide, &[0xed]])
    }

    fn write(&mut self, register: u8, value: u32) -> &mut Self {
        self.select(register).out(DATA, value)
    }

    /// `mov dword [at], value`, in 32-bit code.
    fn store(&mut self, at: u32, value: u32) -> &mut Self {
        self.add(&[&[0xc7, 0x05], &at.to_le_bytes(), &value.to_le_bytes()])
    }

    /// `mov al, value; out dx, al; hlt`, again and again.
    fn end(&mut self, port: u16, value: u8) -> &[u8] {
        self.port(port);
        self.add(&[&[0xb0, value, 0xee, 0xf4, 0xeb, 0xfd]]);
        &self.bytes
    }
}

/// A kernel for mini-vmm, in 32-bit code: sizes BAR 0, writes an MSI-X entry, enables MSI-X.
pub fn kernel() -> Result<PathBuf> {
    let mut code = Code {
        bytes: Vec::new(),
        wide: &[],
        narrow: &[0x66],
        device: 1,
    };
    code.read(0).read(8).read(0x34).read(MSIX).read(MSIX + 4);
    code.write(0x10, u32::MAX).read(0x10).write(0x10, BAR);
    code.write(0x14, u32::MAX).read(0x14).write(0x14, 0);
    // Memory and bus master.
    code.write(4, 6).write(MSIX, MSIX_ENABLED | ALL_MASKED);
    let entry = BAR + TABLE;
    code.store(entry, 0xfee0_0000).store(entry + 4, 0);
    code.store(entry + 8, 0x41).store(entry + 12, 0);
    code.write(MSIX, MSIX_ENABLED).write(MSIX, 0);
    // mini-vmm's register of sleep states.
    let code = code.end(0x600, 0x34);
    const AT: u64 = 0x10_0000;
    let elf = Elf {
        address: AT,
        content: code,
        in_memory: code.len() as u64,
        pvh_entry: Some(&AT.to_le_bytes()),
    };
    write("tiny-kernel", &elf.image())
}

/// Firmware for QEMU, in 16-bit code at the reset vector: enables MSI-X.
fn firmware() -> Result<PathBuf> {
    let mut code = Code {
        bytes: Vec::new(),
        wide: &[0x66],
        narrow: &[],
        device: 3,
    };
    code.read(0).read(8).read(0x34).read(MSIX).read(MSIX + 4);
    code.write(4, 6).write(MSIX, MSIX_ENABLED).write(MSIX, 0);
    // QEMU's isa-debug-exit: the status is 2 * 1 + 1.
    let code = code.end(0xf4, 1);
    let mut image = vec![0xf4; 0x1_0000];
    image[..code.len()].copy_from_slice(code);
    // ljmp 0xf000:0
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    write("tiny-firmware", &image)
}
