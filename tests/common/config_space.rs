//! The configuration space of a made-up PCI function as it is at power-on.

pub const ID: u32 = 0x5678_1234;
pub const VECTORS: u32 = 8;
/// Capabilities: power management, PCI Express, MSI-X.
pub const PM: u16 = 0x40;
pub const EXPRESS: u16 = 0x50;
pub const MSIX: u16 = 0x90;
/// The one extended capability: a serial number.
pub const SERIAL_NUMBER: u16 = 0x100;

/// Overwrites the bytes of `config` from `at` on.
pub fn put(config: &mut [u8], at: u16, bytes: &[u8]) {
    let at = usize::from(at);
    config[at..at + bytes.len()].copy_from_slice(bytes);
}

/// All 4096 bytes.
pub fn config_space() -> Vec<u8> {
    let mut config = vec![0; 4096];
    let mut put = |at: u16, bytes: &[u8]| put(&mut config, at, bytes);
    put(0x00, &ID.to_le_bytes());
    // STATUS: a capability list. Revision 3 of a class that no specification defines.
    put(0x06, &0x0010u16.to_le_bytes());
    put(0x08, &0xff00_0003u32.to_le_bytes());
    for (bar, flags) in [(2, 1u32), (4, 0xc)] {
        put(0x10 + 4 * bar, &flags.to_le_bytes());
    }
    put(0x2c, &0xcdef_89abu32.to_le_bytes());
    put(0x34, &[PM as u8]);
    // Power management, version 3.
    put(PM, &[0x01, EXPRESS as u8, 0x03, 0x00]);
    // PCI Express, version 2, an endpoint.
    put(EXPRESS, &[0x10, MSIX as u8, 0x02, 0x00]);
    put(MSIX, &[0x11, 0x00]);
    put(MSIX + 2, &(VECTORS as u16 - 1).to_le_bytes());
    put(MSIX + 4, &0x2000u32.to_le_bytes());
    put(MSIX + 8, &0x3000u32.to_le_bytes());
    put(SERIAL_NUMBER, &0x0001_0003u32.to_le_bytes());
    put(SERIAL_NUMBER + 4, &0x1122_3344u32.to_le_bytes());
    config
}
