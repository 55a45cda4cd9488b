//! Well-known ports of a PC, by the names of Linux and of their data sheets.

/// A range of ports: first, last, and the names of its registers; one name for all if there is only
/// one.
const PORTS: &[(u16, u16, &[&str])] = &[
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
    (0x92, 0x92, &["port A: A20 and reset"]),
    (0xa0, 0xa1, &["second 8259 command", "second 8259 mask"]),
    (0x402, 0x402, &["debug console"]),
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
    fn names() {
        assert_eq!(
            name(0x3f8, true).as_deref(),
            Some("COM1 transmitter holding")
        );
        assert_eq!(name(0x3fd, false).as_deref(), Some("COM1 line status"));
        assert_eq!(name(0x70, true).as_deref(), Some("RTC index"));
        assert_eq!(name(0x516, true).as_deref(), Some("fw_cfg DMA address"));
        assert_eq!(name(0x1234, true), None);
        assert_eq!(name(0x1_03f8, true), None);
        assert_eq!(character(0x3f8, true, b"\n").as_deref(), Some(r"'\n'"));
        assert_eq!(character(0x3f9, true, b"a"), None);
    }
}
