//! Drives QEMU's teaching device: a register that computes factorials, a buffer for DMA in both
//! directions, and interrupts on request, by MSI and by the pin (docs/specs/edu in QEMU's source).

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use lab::error::Context;
use lab::{Error, Result};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::memory::Memory;
use crate::vfio::{Device, Irq};

// Registers in BAR 0.
const IDENTITY: u64 = 0x00;
const INVERT: u64 = 0x04;
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPTS: u64 = 0x24;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const DMA_FROM: u64 = 0x80;
const DMA_TO: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;

/// STATUS: request an interrupt at the end of a factorial. INTERRUPTS then has the bit COMPUTED.
const WHEN_COMPUTED: u32 = 0x80;
const COMPUTED: u32 = 1;
/// DMA_COMMAND: start; copy from the device to memory; request an interrupt at the end. INTERRUPTS
/// then has the bit COPIED.
const START: u32 = 1;
const TO_MEMORY: u32 = 2;
const WHEN_COPIED: u32 = 4;
const COPIED: u32 = 0x100;
/// The address of the device's buffer of 4 KiB, and the bytes that are copied. QEMU refuses to copy
/// the buffer's last byte (edu_check_range).
const BUFFER: u64 = 0x40000;
const BYTES: usize = 2048;

/// The COMMAND register in configuration space, and its bit Bus Master Enable (PCI 3.0, 6.2.2).
const COMMAND: u64 = 4;
const BUS_MASTER: u16 = 4;

const CONFIG_REGION: u32 = 7;

/// Interrupts that are raised by each kind.
const ROUNDS: u32 = 100;

/// The time limit of an interrupt or a copy.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time during which no further interrupt may arrive.
const NO_INTERRUPT: Duration = Duration::from_millis(100);

struct Edu {
    device: Device,
    bar: u64,
    config: u64,
}

/// Uses all functions of the device, and prints the results.
pub fn drive(bdf: &str) -> Result<()> {
    let device = Device::open(bdf)?;
    let edu = Edu {
        bar: device.region(0)?,
        config: device.region(CONFIG_REGION)?,
        device,
    };
    println!("L2: identity {:#010x}", edu.read(IDENTITY)?);
    edu.write(INVERT, 0x1234_5678)?;
    println!("L2: inverted {:#010x}", edu.read(INVERT)?);
    let memory = Memory::new()?;
    edu.bus_master(true)?;
    for irq in [Irq::Msi, Irq::Intx, Irq::Msi] {
        edu.interrupts(irq, &memory)?;
    }
    edu.bus_master(false)?;
    let words = edu.copy_round(&memory, 99, 0, |edu| edu.idle())?;
    println!("L2: dma-off words={words}");
    Ok(())
}

impl Edu {
    fn read(&self, register: u64) -> Result<u32> {
        self.device
            .read(self.bar + register)
            .map(u32::from_le_bytes)
    }

    fn write(&self, register: u64, value: u32) -> Result<()> {
        self.device.write(self.bar + register, &value.to_le_bytes())
    }

    fn bus_master(&self, on: bool) -> Result<()> {
        let at = self.config + COMMAND;
        let command = u16::from_le_bytes(self.device.read(at)?) & !BUS_MASTER;
        let command = command | if on { BUS_MASTER } else { 0 };
        self.device.write(at, &command.to_le_bytes())
    }

    /// Tests one kind of interrupt in three ways: raised on request, at the end of factorials, and
    /// at the end of copies.
    fn interrupts(&self, irq: Irq, memory: &Memory) -> Result<()> {
        let event = EventFd::new(EFD_NONBLOCK).context("make an eventfd")?;
        self.device.connect(irq, &event)?;
        let line = Line {
            edu: self,
            irq,
            event,
        };
        let table = fs::read_to_string("/proc/interrupts").unwrap_or_default();
        for line in table.lines().filter(|line| line.contains("vfio")) {
            println!("L2: irq {irq:?} {}", line.trim());
        }
        for round in 1..=ROUNDS {
            self.write(RAISE, round)?;
            line.expect(round)?;
        }
        if irq == Irq::Intx {
            line.stays_until_acknowledged()?;
        }
        self.write(STATUS, WHEN_COMPUTED)?;
        for (of, wanted) in [(5, 120), (12, 479_001_600)] {
            self.write(FACTORIAL, of)?;
            line.expect(COMPUTED)?;
            let is = self.read(FACTORIAL)?;
            if is != wanted {
                return Err(Error::failed(format!("the factorial of {of} is not {is}")));
            }
        }
        self.write(STATUS, 0)?;
        let words = self.copy_round(memory, irq as u32, WHEN_COPIED, |_| line.expect(COPIED))?;
        println!("L2: edu irq={irq:?} raised={ROUNDS} factorials=2 words={words}");
        line.stays_low()?;
        self.device.disconnect(irq)
    }

    /// Copies half a page to the device and from there to another address, and returns how many
    /// words arrived. `wait` returns at the end of each copy.
    fn copy_round(
        &self,
        memory: &Memory,
        salt: u32,
        command: u32,
        wait: impl Fn(&Self) -> Result<()>,
    ) -> Result<usize> {
        let value = |n: usize| 0x5eed_0000 ^ (salt << 24) ^ n as u32;
        let (from, to, words) = (0, 64 * BYTES, BYTES / size_of::<u32>());
        memory.fill(from, words, value);
        memory.fill(to, words, |_| 0);
        self.copy(memory.physical(from), BUFFER, START | command)?;
        wait(self)?;
        self.copy(BUFFER, memory.physical(to), START | TO_MEMORY | command)?;
        wait(self)?;
        Ok(memory.count(to, words, value))
    }

    fn copy(&self, from: u64, to: u64, command: u32) -> Result<()> {
        // The device has 28 address bits. The guest has no RAM above that.
        for (register, value) in [(DMA_FROM, from), (DMA_TO, to), (DMA_COUNT, BYTES as u64)] {
            let value = u32::try_from(value).context("give the device an address")?;
            self.write(register, value)?;
        }
        self.write(DMA_COMMAND, command)
    }

    /// Waits until no copy is running.
    fn idle(&self) -> Result<()> {
        let started = Instant::now();
        while self.read(DMA_COMMAND)? & START != 0 {
            if started.elapsed() > PATIENCE {
                return Err(Error::failed("a copy does not end"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// An interrupt of the device, and the eventfd that the interrupt signals.
struct Line<'a> {
    edu: &'a Edu,
    irq: Irq,
    event: EventFd,
}

impl Line<'_> {
    /// Waits for one interrupt, for which the device must give `reason`, and acknowledges it.
    fn expect(&self, reason: u32) -> Result<()> {
        if !self.comes_within(PATIENCE) {
            return Err(Error::failed(format!(
                "no interrupt came by {:?} for {reason:#x}",
                self.irq
            )));
        }
        let found = self.edu.read(INTERRUPTS)?;
        if found != reason {
            return Err(Error::failed(format!(
                "the device interrupts for {found:#x} instead of {reason:#x}"
            )));
        }
        self.edu.write(ACKNOWLEDGE, reason)?;
        self.open()
    }

    /// The pin is level-triggered: if it is unmasked before the device's interrupt is acknowledged,
    /// it interrupts again.
    fn stays_until_acknowledged(&self) -> Result<()> {
        self.edu.write(RAISE, 1)?;
        for again in 0..3 {
            if !self.comes_within(PATIENCE) {
                return Err(Error::failed(format!(
                    "the pin fell after {again} interrupts"
                )));
            }
            if again == 2 {
                self.edu.write(ACKNOWLEDGE, 1)?;
            }
            self.open()?;
        }
        println!("L2: level again=2");
        self.stays_low()
    }

    fn stays_low(&self) -> Result<()> {
        if self.comes_within(NO_INTERRUPT) {
            return Err(Error::failed(format!(
                "an interrupt came by {:?} that was not requested",
                self.irq
            )));
        }
        Ok(())
    }

    fn open(&self) -> Result<()> {
        match self.irq {
            Irq::Intx => self.edu.device.unmask(),
            Irq::Msi => Ok(()),
        }
    }

    fn comes_within(&self, limit: Duration) -> bool {
        let started = Instant::now();
        loop {
            if self.event.read().is_ok() {
                return true;
            }
            if started.elapsed() > limit {
                return false;
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}
