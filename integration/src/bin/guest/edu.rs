//! QEMU's teaching device: a register that counts factorials, a buffer to copy to and from by DMA,
//! and interrupts on request, by MSI and by the pin (docs/specs/edu in QEMU's source).

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

/// STATUS: an interrupt at the end of a factorial, with this bit of INTERRUPTS.
const WHEN_COUNTED: u32 = 0x80;
const COUNTED: u32 = 1;
/// DMA_COMMAND: start; from the device to memory; an interrupt at the end, with this bit of INTERRUPTS.
const START: u32 = 1;
const TO_MEMORY: u32 = 2;
const WHEN_COPIED: u32 = 4;
const COPIED: u32 = 0x100;
/// The device's buffer, and how much of its 4 KiB is copied: the last byte may not be (edu_check_range).
const BUFFER: u64 = 0x40000;
const BYTES: usize = 2048;

/// Configuration space's COMMAND and its bus-master bit.
const COMMAND: u64 = 4;
const BUS_MASTER: u16 = 4;

const CONFIG_REGION: u32 = 7;

/// Interrupts raised by each kind.
const ROUNDS: u32 = 100;

/// Longer than any of it takes, and as long as nothing must come.
const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(100);

struct Edu {
    device: Device,
    bar: u64,
    config: u64,
}

/// Does everything that the device can, and says what came of it.
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

    /// One kind of interrupt: raised by hand, at the end of factorials, and at the end of copies.
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
        self.write(STATUS, WHEN_COUNTED)?;
        for (of, wanted) in [(5, 120), (12, 479_001_600)] {
            self.write(FACTORIAL, of)?;
            line.expect(COUNTED)?;
            let is = self.read(FACTORIAL)?;
            if is != wanted {
                return Err(Error::failed(format!("the factorial of {of} is not {is}")));
            }
        }
        self.write(STATUS, 0)?;
        let words = self.copy_round(memory, irq as u32, WHEN_COPIED, |_| line.expect(COPIED))?;
        println!("L2: edu irq={irq:?} raised={ROUNDS} factorials=2 words={words}");
        line.silent()?;
        self.device.disconnect(irq)
    }

    /// Copies half a page to the device and from there to another place; says how many words arrived.
    /// `wait` returns at the end of each copy.
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
        // The device takes addresses of 28 bits, and the guest has no more memory than that.
        for (register, value) in [(DMA_FROM, from), (DMA_TO, to), (DMA_COUNT, BYTES as u64)] {
            let value = u32::try_from(value).context("give the device an address")?;
            self.write(register, value)?;
        }
        self.write(DMA_COMMAND, command)
    }

    /// Until no copy is under way.
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

/// The device's interrupt, connected.
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

    /// A pin is a level: opened again before the device is content, it interrupts again.
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
        self.silent()
    }

    fn silent(&self) -> Result<()> {
        if self.comes_within(SILENCE) {
            return Err(Error::failed(format!(
                "an interrupt came by {:?} that nobody asked for",
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
