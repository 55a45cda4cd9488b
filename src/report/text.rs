//! The report as a table for people. The table may change; the JSON does not.

use std::fmt;

use vmm::counters::dma::Maps;
use vmm::counters::wakeups::Wakeups;
use vmm::stats::devices::Calls;
use vmm::stats::kvm::Counters;

use crate::report::{KvmReport, Register, Report};

/// The number of registers in the table.
const SHOWN: usize = 20;

/// Microseconds as milliseconds.
struct Ms(u64);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.3} ms", self.0 as f64 / 1000.0))
    }
}

struct Mib(u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "start (from the first line of main; at least {} of CPU time before it)",
            Ms(self.cpu_before_main_us)
        )?;
        for phase in &self.phases {
            let took = Ms(phase.end_us.saturating_sub(phase.start_us));
            let space = if phase.device.is_some() { " " } else { "" };
            let device = phase.device.as_deref().unwrap_or_default();
            writeln!(
                f,
                "  at {:>13} for {took:>13}  {}{space}{device}",
                Ms(phase.start_us),
                phase.name
            )?;
        }
        if let Some(first) = self.first_exit_us {
            writeln!(f, "  at {:>13}                    first exit", Ms(first))?;
        }
        self.exits(f)?;
        self.config_space(f)?;
        write!(f, "{}", self.kvm)?;
        if !self.devices.is_empty() {
            self.devices(f)?;
        }
        if let Some(memory) = &self.memory {
            writeln!(f, "memory without the guest's RAM")?;
            writeln!(
                f,
                "  private {} ({} written), resident {}",
                Mib(memory.private_bytes),
                Mib(memory.private_dirty_bytes),
                Mib(memory.resident_bytes)
            )?;
            writeln!(
                f,
                "  the guest's RAM has {} present",
                Mib(memory.guest_resident_bytes)
            )?;
        }
        if !self.degraded.is_empty() {
            writeln!(f, "what the guest has less of")?;
        }
        for loss in &self.degraded {
            writeln!(f, "  {}  {loss}; hint: {}", loss.code, loss.hint)?;
        }
        Ok(())
    }
}

impl Report {
    fn exits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "exits to mini-vmm: {} in {}",
            self.exits.total,
            Ms(self.uptime_us)
        )?;
        for (reason, count) in self.exits.by_reason.iter().filter(|(_, n)| **n > 0) {
            writeln!(f, "  {count:>10}  {reason}")?;
        }
        writeln!(
            f,
            "  {:>10}  writes without an exit",
            self.exits.coalesced_writes
        )?;
        let registers = &self.exits.registers;
        if registers.is_empty() {
            return Ok(());
        }
        writeln!(f, "exits by register, the most frequent")?;
        for register in registers.iter().take(SHOWN) {
            write!(f, "{register}")?;
        }
        let hidden: u64 = registers.iter().skip(SHOWN).map(|r| r.count).sum();
        others(f, hidden + self.exits.other_registers)
    }

    fn config_space(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registers = &self.config_space.registers;
        if registers.is_empty() {
            return Ok(());
        }
        writeln!(f, "accesses to configuration space, the most frequent")?;
        for register in registers.iter().take(SHOWN) {
            let way = if register.write { "write" } else { "read" };
            writeln!(
                f,
                "  {:>10}  {way:<5} {} register {}",
                register.count, register.function, register.register
            )?;
        }
        let hidden: u64 = registers.iter().skip(SHOWN).map(|r| r.count).sum();
        others(f, hidden + self.config_space.others)
    }

    fn devices(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "interrupts")?;
        for vector in &self.interrupts {
            writeln!(
                f,
                "  {:>10}  {} {}[{}]",
                vector.interrupts, vector.device, vector.kind, vector.vector
            )?;
        }
        writeln!(f, "devices")?;
        for device in &self.devices {
            let (name, resets, irqs) = (
                &device.device,
                Shown(&device.resets),
                Shown(&device.set_irqs),
            );
            write!(f, "  {name} resets {resets}; SET_IRQS {irqs}")?;
            if device.wakeups != Wakeups::default() {
                let Wakeups {
                    delivered,
                    unmasked,
                } = device.wakeups;
                write!(
                    f,
                    "; a thread woke for {delivered} interrupts, and {unmasked} times to unmask"
                )?;
            }
            if let Some(at) = device.first_vector_us {
                write!(f, "; its first vector at {}", Ms(at))?;
            }
            if device.waited_us > 0 {
                let waited = Ms(device.waited_us);
                write!(f, "; vCPUs waited {waited} until it was open")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "DMA maps")?;
        writeln!(f, "  RAM {}", Shown(&self.dma.ram))?;
        writeln!(f, "  BARs {}", Shown(&self.dma.bars))
    }
}

/// Writes the line with the number of registers that the table leaves out.
fn others(f: &mut fmt::Formatter<'_>, count: u64) -> fmt::Result {
    if count == 0 {
        return Ok(());
    }
    writeln!(f, "  {count:>10}  others")
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            space,
            address,
            count,
            ..
        } = self;
        let way = if self.write { "write" } else { "read" };
        write!(f, "  {count:>10}  {way:<5} {space} {address}")?;
        if let (Some(range), Some(offset)) = (&self.range, &self.offset) {
            write!(f, " ({range} + {offset})")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for KvmReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "KVM's counters that are not 0")?;
        if let Some(problem) = &self.problem {
            return writeln!(f, "  none: {problem}");
        }
        let mut sums = std::collections::BTreeMap::<&str, u64>::new();
        for (name, value) in self.vcpus.iter().flat_map(Counters::iter) {
            *sums.entry(name).or_default() += value.number().unwrap_or_default();
        }
        let vm = self
            .vm
            .iter()
            .filter_map(|(name, v)| Some((name.as_str(), v.number()?)));
        for (of, (name, value)) in vm
            .map(|c| ("VM", c))
            .chain(sums.into_iter().map(|c| ("vCPUs", c)))
        {
            if value > 0 {
                writeln!(f, "  {value:>10}  {name} ({of})")?;
            }
        }
        Ok(())
    }
}

/// A counter of the VM as text.
struct Shown<'a, T>(&'a T);

impl fmt::Display for Shown<'_, Calls> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.0.calls, Ms(self.0.us))
    }
}

impl fmt::Display for Shown<'_, Maps> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} in {}",
            self.0.maps,
            Mib(self.0.bytes),
            Ms(self.0.us)
        )?;
        match self.0.gib_per_s {
            Some(speed) => write!(f, " ({speed:.1} GiB/s)"),
            None => Ok(()),
        }
    }
}
