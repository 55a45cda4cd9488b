//! Message-signalled interrupts of x86 (Intel SDM volume 3, 11.11 "Message Signalled Interrupts").

/// The bits of the address that make a write an interrupt.
const ADDRESS: u64 = 0xfee0_0000;

/// What a message means: vector, destination, and how it is delivered if not plainly.
pub fn describe(address: u64, data: u32) -> Option<String> {
    if address & !0xf_ffff != ADDRESS {
        return None;
    }
    // Bits 11:5 are bits 14:8 of the destination, where KVM_FEATURE_MSI_EXT_DEST_ID is used.
    let cpu = (address >> 12) & 0xff | ((address >> 5) & 0x7f) << 8;
    // Remappable format: Intel's interrupt remapping is in use in the guest.
    if address & 1 << 4 != 0 {
        return Some(format!("remapped, handle {:#x}", (address >> 5) & 0x7fff));
    }
    let mut text = format!("vector {:#04x}, ", data & 0xff);
    match address & 1 << 2 {
        0 => text += &format!("CPU {cpu}"),
        _ => text += &format!("logical CPUs {cpu:#x}"),
    }
    match (data >> 8) & 7 {
        0 => {}
        1 => text += ", lowest priority",
        2 => text += ", SMI",
        4 => text += ", NMI",
        5 => text += ", INIT",
        7 => text += ", ExtINT",
        mode => text += &format!(", delivery mode {mode}"),
    }
    if data & 1 << 15 != 0 {
        text += ", level";
    }
    Some(text)
}

/// The destination of a message's address.
pub fn destination(address: u64) -> Option<String> {
    let text = describe(address, 0)?;
    Some(
        text.split_once(", ")
            .map_or(text.clone(), |(_, cpu)| cpu.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let text = |address, data| describe(address, data);
        assert_eq!(
            text(0xfee0_1000, 0x21).as_deref(),
            Some("vector 0x21, CPU 1")
        );
        assert_eq!(
            text(0xfee0_1020, 0x21).as_deref(),
            Some("vector 0x21, CPU 257")
        );
        let logical = "vector 0x30, logical CPUs 0x3, lowest priority";
        assert_eq!(text(0xfee0_3004, 0x130).as_deref(), Some(logical));
        assert_eq!(text(0xfec0_0000, 0x21), None);
        assert_eq!(text(0, 0), None);
        assert_eq!(destination(0xfee0_2000).as_deref(), Some("CPU 2"));
    }
}
