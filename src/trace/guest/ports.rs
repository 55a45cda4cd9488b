//! Well-known ports of a PC, by the names of Linux and of their data sheets.

/// A range of ports: first, last, and the names of its registers; one name for all if there is only
/// one.
const PORTS: &[(u16, u16, &[&str])] = &[
    (0x00, 0x0f, &["8237 DMA"]),
    (0x20, 0x21, &["8259 command", "8259 mask"]),
    (
        0x40,
        0x43,
        &[
            "8254 counter 0",
            "8254 counter 1",
            "8254 counter 2",
            "8254 mode",
        ],
    ),
    (0x60, 0x60, &["keyboard data"]),
    (0x61, 0x61, &["NMI status and control"]),
    (0x64, 0x64, &["keyboard status and command"]),
    (0x70, 0x71, &["RTC index", "RTC data"]),
    (0x80, 0x80, &["POST code"]),
    (0x81, 0x8f, &["DMA page"]),
    (0x92, 0x92, &["port A: A20 and reset"]),
    (0xa0, 0xa1, &["second 8259 command", "second 8259 mask"]),
    (0xc0, 0xdf, &["second 8237 DMA"]),
    (0x170, 0x177, &["second IDE"]),
    (0x1f0, 0x1f7, &["IDE"]),
    (0x278, 0x27a, &["LPT2"]),
    (0x376, 0x376, &["second IDE control"]),
    (0x378, 0x37a, &["LPT1"]),
    (0x3b0, 0x3df, &["VGA"]),
    (0x3f0, 0x3f5, &["floppy disk"]),
    (0x3f6, 0x3f6, &["IDE control"]),
    (0x3f7, 0x3f7, &["floppy disk"]),
    (0x402, 0x402, &["debug console"]),
    (
        0x4d0,
        0x4d1,
        &["8259 edge or level", "second 8259 edge or level"],
    ),
    (0x510, 0x511, &["fw_cfg selector", "fw_cfg data"]),
    (0x514, 0x51b, &["fw_cfg DMA address"]),
    (0xcf9, 0xcf9, &["reset control"]),
];

/// Registers of a 16550 when its latch bit is 0: names for reading and for writing.
const UART: [(&str, &str); 8] = [
    ("receiver buffer", "transmitter holding"),
    ("interrupt enable", "interrupt enable"),
    ("interrupt identification", "FIFO control"),
    ("line control", "line control"),
    ("modem control", "modem control"),
    ("line status", "line status"),
    ("modem status", "modem status"),
    ("scratch", "scratch"),
];

const COM: [(u16, &str); 4] = [
    (0x3f8, "COM1"),
    (0x2f8, "COM2"),
    (0x3e8, "COM3"),
    (0x2e8, "COM4"),
];

/// The name of a port: the device and the register.
pub fn name(port: u64, write: bool) -> Option<String> {
    let port = u16::try_from(port).ok()?;
    for (base, com) in COM {
        if let Some((read, written)) = UART.get(usize::from(port.wrapping_sub(base))) {
            return Some(format!("{com} {}", if write { written } else { read }));
        }
    }
    let (first, _, names) = PORTS
        .iter()
        .find(|(first, last, _)| (*first..=*last).contains(&port))?;
    let name = names.get(usize::from(port - first)).or(names.first())?;
    Some((*name).to_string())
}

/// What a byte to a transmitter is as text.
pub fn character(port: u64, write: bool, data: &[u8]) -> Option<String> {
    let uart = COM.iter().any(|(base, _)| u64::from(*base) == port);
    if !(uart || port == 0x402) || !write || data.is_empty() {
        return None;
    }
    Some(format!("'{}'", data.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_rise_and_do_not_overlap() {
        let ends = PORTS.iter().map(|(first, last, _)| (*first, *last));
        let coms = COM.map(|(base, _)| (base, base + 7));
        let mut all: Vec<_> = ends.chain(coms).collect();
        all.sort_unstable();
        assert!(all.iter().all(|(first, last)| first <= last));
        assert!(all.windows(2).all(|pair| pair[0].1 < pair[1].0), "{all:x?}");
    }

    #[test]
    fn names() {
        assert_eq!(
            name(0x3f8, true).as_deref(),
            Some("COM1 transmitter holding")
        );
        assert_eq!(name(0x3fd, false).as_deref(), Some("COM1 line status"));
        assert_eq!(name(0x70, true).as_deref(), Some("RTC index"));
        assert_eq!(name(0x516, true).as_deref(), Some("fw_cfg DMA address"));
        assert_eq!(name(0x3f6, true).as_deref(), Some("IDE control"));
        assert_eq!(name(0x3c9, true).as_deref(), Some("VGA"));
        assert_eq!(name(0x1234, true), None);
        assert_eq!(name(0x1_03f8, true), None);
        assert_eq!(character(0x3f8, true, b"\n").as_deref(), Some(r"'\n'"));
        assert_eq!(character(0x3f9, true, b"a"), None);
    }
}
