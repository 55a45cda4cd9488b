//! The explanation as text for people.

use std::fmt;

use crate::explain::registers::Field;
use crate::explain::report::{
    Bar, Cpus, Device, Dma, Explanation, Extent, PeerToPeer, Piece, Problem,
};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Problem { problem, hint } in &self.problems {
            writeln!(f, "A run would fail: {problem}")?;
            if let Some(hint) = hint {
                writeln!(f, "hint: {hint}")?;
            }
            writeln!(f)?;
        }
        for loss in &self.degraded {
            writeln!(f, "The guest gets less [{}]: {loss}", loss.code)?;
            writeln!(f, "hint: {}\n", loss.hint)?;
        }
        for device in &self.devices {
            write!(f, "{device}")?;
        }
        writeln!(f, "Guest-physical memory")?;
        for area in &self.guest_memory {
            let indent = 2 * usize::from(area.depth);
            writeln!(
                f,
                "  {:>14} - {:<14} {:>9}  {:indent$}{}",
                area.start,
                area.last,
                bytes(area.size),
                "",
                area.what,
            )?;
        }
        write!(f, "\n{}\n{}", self.dma, self.guest_cpus)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let option = |on, name| match on {
            true => format!("yes; {name}=off of --cpus takes it away"),
            false => format!("no; {name}=on of --cpus gives it"),
        };
        writeln!(f, "Virtual CPUs: {}", self.count)?;
        writeln!(
            f,
            "  guests of its own (VMX, SVM)  {}",
            option(self.nested, "nested")
        )?;
        writeln!(
            f,
            "  performance counters          {}",
            option(self.pmu, "pmu")
        )
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.driver.as_deref().unwrap_or("no driver");
        let port = self.port.as_ref();
        let port = port.map_or(String::new(), |port| {
            format!(" behind the root port {port}")
        });
        writeln!(
            f,
            "{} is {}{port} in the guest ({driver})",
            self.host, self.guest
        )?;
        match &self.link {
            Some(link) => writeln!(f, "It is {}. The link is {link} now\n", self.port_reason)?,
            None => writeln!(f, "It is {}\n", self.port_reason)?,
        }

        match &self.group {
            Some(group) => writeln!(f, "IOMMU group {}", group.number)?,
            None => writeln!(f, "In no IOMMU group: the host's IOMMU is off or missing")?,
        }
        for member in self.group.iter().flat_map(|group| &group.members) {
            let driver = member.driver.as_deref().unwrap_or("no driver");
            let note = match (member.host == self.host, member.blocks) {
                (_, true) => "  keeps the group from being passed through",
                (true, false) => "  this device",
                (false, false) => "",
            };
            writeln!(f, "  {}  {driver}{note}", member.host)?;
        }
        let resets = match self.resets.is_empty() {
            true => "none of its own".into(),
            false => self.resets.join(", "),
        };
        writeln!(f, "Resets: {resets}\n")?;

        writeln!(f, "Configuration space")?;
        writeln!(
            f,
            "  {:<4}  {:<26}  {:<8}  {:<8}  {:<9} WHY",
            "AT", "REGISTER", "HOST", "GUEST", "GUEST HAS"
        )?;
        let mut capability = None;
        for field in &self.registers {
            let in_one_piece = field.capability == Some(field.name);
            if field.capability != capability && !in_one_piece {
                let name = field.capability.unwrap_or_default();
                writeln!(f, "  {:03x}   {name}", field.offset)?;
            }
            capability = field.capability;
            writeln!(f, "  {}", line(field, in_one_piece).trim_end())?;
        }

        if self.partial {
            writeln!(f, "  040   the rest is for root to see")?;
        }

        writeln!(f, "\nBARs")?;
        for bar in &self.bars {
            write!(f, "{bar}")?;
        }
        writeln!(f, "\nInterrupts")?;
        for interrupt in &self.interrupts {
            writeln!(
                f,
                "  {:<5}  {:>4}  {}",
                interrupt.kind, interrupt.vectors, interrupt.way
            )?;
        }
        writeln!(f)
    }
}

fn line(field: &Field, in_one_piece: bool) -> String {
    let indent = match field.capability {
        Some(_) if !in_one_piece => "  ",
        _ => "",
    };
    let name = format!("{indent}{}", field.name);
    format!(
        "{:03x}   {name:<26}  {:<8}  {:<8}  {:<9} {}",
        field.offset,
        field.host.as_deref().unwrap_or(""),
        field.guest.as_deref().unwrap_or(""),
        field.treatment.word(),
        field.reason,
    )
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {}  {:>9} of {} at {}",
            self.index,
            bytes(self.size),
            self.kind,
            self.guest
        )?;
        let mut parts: Vec<(&Piece, &str)> = self
            .mapped
            .iter()
            .map(|piece| (piece, "mapped: the guest reaches it without an exit"))
            .chain(self.trapped.iter().map(|piece| (piece, "trapped")))
            .collect();
        parts.sort_by_key(|(piece, _)| number(&piece.offset));
        for (piece, how) in parts {
            writeln!(
                f,
                "       {:>10} + {:<9} {how}",
                piece.offset,
                bytes(piece.size)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self
            .interface
            .map_or(String::new(), |by| format!(", by {by}"));
        writeln!(
            f,
            "DMA{by}: I/O addresses are the guest's physical addresses"
        )?;
        for (extents, what) in [
            (&self.maps, "mapped: RAM"),
            (&self.usable, "can be mapped"),
            (&self.reserved, "kept by the IOMMU"),
        ] {
            for Extent { start, last } in extents {
                writeln!(f, "  {start:>14} - {last:<18}  {what}")?;
            }
        }
        if let Some(way) = self.peer_to_peer {
            writeln!(f, "Peer-to-peer DMA: {}", in_words(way))?;
        }
        let limit = self.memlock.map_or("no limit".into(), bytes);
        writeln!(
            f,
            "Pinned: {} (RLIMIT_MEMLOCK: {limit})",
            bytes(self.pinned)
        )
    }
}

fn in_words(way: PeerToPeer) -> &'static str {
    match way {
        PeerToPeer::Address => "BARs are mapped by their addresses",
        PeerToPeer::DmaBuf => "BARs are mapped as dma-bufs, while their device decodes them",
        PeerToPeer::Missing => "none",
        PeerToPeer::Unknown => "by iommufd if the devices can export dma-bufs, which the run asks",
    }
}

fn number(hex: &str) -> u64 {
    u64::from_str_radix(hex.trim_start_matches("0x"), 16).unwrap_or(0)
}

/// A size in the largest unit that needs no fraction.
fn bytes(size: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        if size != 0 && size.trailing_zeros() >= shift {
            return format!("{} {unit}", size >> shift);
        }
    }
    format!("{size} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (size, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (4096, "4 KiB"),
            (5 << 20, "5 MiB"),
            (3 << 29, "1536 MiB"),
            (1 << 40, "1 TiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
