//! QEMU's teaching device, which raises an interrupt on command (QEMU's docs/specs/edu.rst). No
//! driver has it: its message is set up by hand, to a vector that the guest's kernel does not use.
//! The kernel counts such an interrupt as spurious and ends it, and the host's kernel records its
//! way.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use pci::regs;

use crate::error::{Context, Error, Result};
use crate::work::task::FunctionId;

/// What the kernel's modules would know the device by: vendor and device.
const MODALIAS: &str = "pci:v00001234d000011E8";

/// The registers that raise and acknowledge an interrupt, in words of four bytes.
const RAISE: usize = 0x60 / 4;
const ACKNOWLEDGE: usize = 0x64 / 4;
const PAGE: usize = 4096;

/// The number of MSI's capability (PCI Code and ID Assignment Specification, 2).
const MSI: u8 = 5;

/// The message: to the first CPU, a vector above those that the kernel gives to devices first and
/// below its own (arch/x86/include/asm/irq_vectors.h).
const ADDRESS: u32 = 0xfee0_0000;
const VECTOR: u16 = 0xe1;

/// The interrupts that are raised, and the time between two.
const COUNT: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// Whether the function is this device.
pub(super) fn is(id: &FunctionId) -> bool {
    id.modalias.starts_with(MODALIAS)
}

/// Raises interrupts, one at a time.
pub(super) fn raise(device: &Path) -> Result<()> {
    let words = "the guest cannot set up its device's message";
    let config = OpenOptions::new()
        .write(true)
        .open(device.join("config"))
        .context(words)?;
    let space = fs::read(device.join("config")).context(words)?;
    for (at, bytes) in
        message(&space).ok_or_else(|| Error::new("the guest's device has no messages"))?
    {
        config.write_all_at(&bytes, at).context(words)?;
    }
    let bar = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device.join("resource0"))
        .context(words)?;
    let registers = Registers::map(&bar).context(words)?;
    for _ in 0..COUNT {
        registers.write(RAISE, 1);
        thread::sleep(PAUSE);
        registers.write(ACKNOWLEDGE, 1);
    }
    Ok(())
}

/// The writes to configuration space that let the device send its message (PCI Local Bus
/// Specification 3.0, 6.8.1), the enabling one last.
fn message(space: &[u8]) -> Option<Vec<(u64, Vec<u8>)>> {
    let byte = |at: u64| space.get(usize::try_from(at).ok()?).copied();
    let half = |at: u64| Some(u16::from_le_bytes([byte(at)?, byte(at + 1)?]));
    let mut at = u64::from(byte(regs::CAPABILITIES.into())? & !3);
    // A list has no more entries than the space.
    for _ in 0..48 {
        match byte(at)? {
            _ if at == 0 => return None,
            MSI => break,
            _ => at = u64::from(byte(at + 1)? & !3),
        }
    }
    let control = half(at + 2)?;
    let is_wide = control & 1 << 7 != 0;
    let data = at + if is_wide { 12 } else { 8 };
    let command = half(regs::COMMAND.into())? | regs::command::MEMORY | regs::command::BUS_MASTER;
    let mut writes = vec![
        (regs::COMMAND.into(), command.to_le_bytes().to_vec()),
        (at + 4, ADDRESS.to_le_bytes().to_vec()),
        (data, VECTOR.to_le_bytes().to_vec()),
    ];
    if is_wide {
        writes.push((at + 8, vec![0; 4]));
    }
    writes.push((at + 2, (control | 1).to_le_bytes().to_vec()));
    (byte(at)? == MSI).then_some(writes)
}

/// The first page of the device's registers.
struct Registers(*mut u32);

impl Registers {
    fn map(bar: &File) -> io::Result<Self> {
        // SAFETY: a new mapping, which no Rust object has.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                bar.as_raw_fd(),
                0,
            )
        };
        match at == libc::MAP_FAILED {
            true => Err(io::Error::last_os_error()),
            false => Ok(Self(at.cast())),
        }
    }

    fn write(&self, register: usize, value: u32) {
        assert!(register < PAGE / 4);
        // SAFETY: the register is within the page, which is mapped as long as `self` lives.
        unsafe { self.0.add(register).write_volatile(value) };
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into the mapping.
        let _ = unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A space with a power capability at 0x40 and MSI at 0x50.
    fn space(control: u16) -> Vec<u8> {
        let mut space = vec![0; 256];
        space[0x34] = 0x40;
        (space[0x40], space[0x41]) = (1, 0x50);
        space[0x50] = MSI;
        space[0x52..0x54].copy_from_slice(&control.to_le_bytes());
        space
    }

    #[test]
    fn the_message_is_written_before_it_is_enabled() {
        let writes = message(&space(0x80)).unwrap();
        let at: Vec<u64> = writes.iter().map(|(at, _)| *at).collect();
        assert_eq!(at, [0x04, 0x54, 0x5c, 0x58, 0x52]);
        assert_eq!(writes[0].1, [6, 0]);
        assert_eq!(writes[4].1, [0x81, 0]);
        let narrow = message(&space(0)).unwrap();
        assert_eq!((narrow[2].0, narrow.len()), (0x58, 4));
    }

    #[test]
    fn a_device_without_messages_has_none() {
        let mut without = space(0);
        without[0x50] = 9;
        assert_eq!(message(&without), None);
        // A list that ends nowhere.
        without[0x51] = 0x40;
        assert_eq!(message(&without), None);
        assert_eq!(message(&[]), None);
    }

    #[test]
    fn a_register_is_written_at_its_offset() {
        let path = std::env::temp_dir().join(format!("bench-edu-{}", std::process::id()));
        fs::write(&path, vec![0; PAGE]).unwrap();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let registers = Registers::map(&file).unwrap();
        registers.write(RAISE, 7);
        drop(registers);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(bytes[0x60], 7);
    }
}
