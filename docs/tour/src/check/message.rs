//! Chapter 9: a guest that sets up MSI, in the emulated machine.

use crate::check::driver::{after, was_assembled, with_guest};
use crate::commands::Output;

const APIC: u64 = 0xfee0_0000;
const VECTOR: u64 = 0x40;
const ON: u64 = 1 << 16;

/// Runs the guest, and prints its writes to the MSI capability.
pub fn command(answer: &str) -> String {
    let run = "timeout 15 mini-vmm trace -o /run/calls -- own /run/guest 0000:00:0b.0 2>&1
for register in 0x40 0x44 0x4c; do
	sed -nE \"s/.*pwrite64\\(region=\\\"config\\\", offset=$register, .*data=(0x[0-9a-f]+)\\).*/\
               wrote $register \\1/p\" /run/calls | tail -n 1
done";
    with_guest(answer, "img", run)
}

/// Judges by the registers, and by what the guest has said.
///
/// # Errors
/// What to look at next.
pub fn verdict(output: &Output) -> Result<(), String> {
    let text = output.text.as_str();
    was_assembled(text)?;
    let wrote = |register: &str| after(text, &format!("wrote {register} "));
    let came = ["reason 00000001", "reason 00000002"].map(|line| text.contains(line));
    let address = wrote("0x44").unwrap_or(0);
    let data = wrote("0x4c").unwrap_or(0);
    match wrote("0x40") {
        None => Err(
            "The guest wrote nothing to the MSI capability: the device does not know what to send, \
             and where to."
                .into(),
        ),
        Some(_) if address != APIC => Err(format!(
            "The address register has {address:08x}: bits 12 to 19 are the APIC ID, and the guest \
             has CPU 0 alone."
        )),
        Some(_) if data != VECTOR => Err(format!(
            "The data register has {data:08x}: its low byte is the vector, and the guest's handler \
             has {VECTOR:#x}."
        )),
        Some(control) if control & ON == 0 => Err(
            "MSI is off: the device has an address and data, and asks bit 16 of the first dword \
             whether it may use them."
                .into(),
        ),
        Some(_) if came == [true, true] => Ok(()),
        Some(_) => Err(
            "MSI is set up, and no interrupt came: the processor takes none while its interrupt \
             flag is clear."
                .into(),
        ),
    }
}
