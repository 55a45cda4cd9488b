//! QEMU as a program of L1, with its libraries and firmware.

use std::path::Path;

use crate::error::Result;
use crate::initramfs::Archive;

/// The directories of the firmware in QEMU's packages. L1 has the same paths as this machine.
pub const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// The firmware files that QEMU's machines need without a display.
const ROMS: [&str; 6] = [
    "bios.bin",
    "bios-256k.bin",
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "pvh.bin",
];

/// Adds QEMU, with a link in `/bin`, and its firmware. QEMU looks for its firmware in
/// `../share/qemu` beside its program.
pub fn add(archive: &mut Archive, qemu: &Path) -> Result<()> {
    let name = qemu.file_name().unwrap_or_default().to_string_lossy();
    archive.host_program_as(&format!("usr/bin/{name}"), qemu)?;
    archive.link(&format!("bin/{name}"), &format!("../usr/bin/{name}"));
    for path in FIRMWARE
        .iter()
        .flat_map(|dir| ROMS.map(|name| Path::new(dir).join(name)))
    {
        if path.is_file() {
            let name = path.to_string_lossy();
            archive.host_file(name.trim_start_matches('/'), &path, false)?;
        }
    }
    Ok(())
}
