//! Draws who reaches the memory of a process, and by which addresses: the processor by memory
//! slots, and devices by the IOMMU's maps, from lines of `mini-vmm trace` without their times.

use std::fmt::Write;

/// The value of a field, which is a hexadecimal number.
fn field(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(&format!("{name}=0x"))?;
    let end = rest.find(|c: char| !c.is_ascii_hexdigit());
    u64::from_str_radix(rest.get(..end.unwrap_or(rest.len()))?, 16).ok()
}

/// One line for each memory slot, with the map of the same addresses.
///
/// # Errors
/// There is no slot, or a map of memory that no slot has.
pub fn sides(data: &str) -> Result<String, String> {
    let area = |start: &str, size: &str, line: &str| {
        let (start, size) = (field(line, start)?, field(line, size)?);
        (size > 0).then_some((start, size))
    };
    let lines = || data.lines();
    let slots: Vec<_> = lines()
        .filter_map(|line| area("guest_phys_addr", "memory_size", line))
        .collect();
    let maps: Vec<_> = lines()
        .filter(|line| line.contains("MAP_DMA"))
        .filter_map(|line| area("iova", "size", line))
        .collect();
    if let Some(map) = maps.iter().find(|map| !slots.contains(map)) {
        return Err(format!("no slot has the memory of the map {map:x?}"));
    }
    let mut drawn = String::from(
        "the guest's processor                                  the device\n\
         guest-physical             memory of the process       I/O addresses\n",
    );
    for (start, size) in &slots {
        let last = start + (size - 1);
        let range = format!("{start:#x} - {last:#x}");
        let kib = size / 1024;
        let other = match maps.contains(&(*start, *size)) {
            true => format!("◀── {range}"),
            false => String::new(),
        };
        let line = format!("{range:<23} ──▶ {kib:>6} KiB {:<12}{other}", "");
        let _ = writeln!(drawn, "{}", line.trim_end());
    }
    match slots.is_empty() {
        true => Err("there is no memory slot".into()),
        false => Ok(drawn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_stands_beside_its_map() {
        let data = "vm KVM_SET_USER_MEMORY_REGION(guest_phys_addr=0x0, memory_size=0x2000, x) = 0\n\
            container VFIO_IOMMU_MAP_DMA(vaddr=0x7f##########, iova=0x0, size=0x2000) = 0\n\
            vm KVM_SET_USER_MEMORY_REGION(guest_phys_addr=0xc0000000, memory_size=0x1000) = 0\n";
        let drawn = sides(data).unwrap();
        let lines: Vec<_> = drawn.lines().skip(2).collect();
        assert!(lines[0].starts_with("0x0 - 0x1fff ") && lines[0].ends_with("◀── 0x0 - 0x1fff"));
        assert!(lines[1].starts_with("0xc0000000 - 0xc0000fff ") && lines[1].ends_with("KiB"));
        assert!(sides("nothing").is_err());
        assert!(sides(&data.replace("iova=0x0", "iova=0x1000")).is_err());
    }
}
