//! Sends an admin command without data to an NVMe controller, in L1 and L2 (NVM Express Base 2.0,
//! 5; `struct nvme_passthru_cmd` of linux/nvme_ioctl.h). sysfs has no file for these commands.
//!
//! `nvme-admin /dev/nvme0 OPCODE CDW10 CDW11`, with numbers in decimal or after 0x. The exit status
//! is the low byte of the controller's status, and 255 for an error of the kernel.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Default)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    data: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12_to_15: [u32; 4],
    timeout_ms: u32,
    result: u32,
}

/// `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
const NVME_IOCTL_ADMIN_CMD: libc::c_ulong =
    3 << 30 | (size_of::<Command>() as libc::c_ulong) << 16 | (b'N' as libc::c_ulong) << 8 | 0x41;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, numbers @ ..] = args.as_slice() else {
        eprintln!("usage: nvme-admin DEVICE OPCODE CDW10 CDW11");
        return ExitCode::from(255);
    };
    let numbers: Option<Vec<u32>> = numbers.iter().map(|text| number(text)).collect();
    let status = match numbers.as_deref() {
        Some(&[opcode, cdw10, cdw11]) => send(device, opcode as u8, cdw10, cdw11),
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    match status {
        Ok(0) => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("nvme-admin: {device} answers with status {status:#x}");
            ExitCode::from(u8::try_from(status & 0xff).unwrap_or(1).max(1))
        }
        Err(e) => {
            eprintln!("nvme-admin: {device}: {e}");
            ExitCode::from(255)
        }
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn send(device: &str, opcode: u8, cdw10: u32, cdw11: u32) -> io::Result<i32> {
    let file = File::open(device)?;
    let mut command = Command {
        opcode,
        cdw10,
        cdw11,
        ..Command::default()
    };
    // SAFETY: the kernel reads and writes one structure, whose size is in the ioctl's number and
    // which lives for the call.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, &mut command) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status)
}
