//! Chapter 8: a guest whose accesses to a register KVM must emulate.

use crate::check::driver::{after, was_assembled, with_guest};
use crate::commands::Output;

/// The bits that are set in the device's register, which it has inverted.
const BITS: u64 = 12;
/// The last bytes of an instruction that has the register's address.
const ADDRESS: &str = "04 00 00 c0";

/// Runs the guest where its device's BAR is not mapped.
pub fn command(answer: &str) -> String {
    let run = "timeout 15 mini-vmm --kernel /run/guest --memory 64M --vfio 00:0b.0,mmap=off \
               --stats 2>&1";
    with_guest(answer, "elf", run)
}

/// Judges by what the guest has said, and by its exits.
///
/// # Errors
/// What to look at next.
pub fn verdict(output: &Output) -> Result<(), String> {
    let text = output.text.as_str();
    was_assembled(text)?;
    if let Some((_, rest)) = text.split_once(", instruction ")
        && let Some((bytes, _)) = rest.split_once(ADDRESS)
    {
        return Err(format!(
            "KVM cannot emulate an instruction of the guest's ({bytes}{ADDRESS}): load the \
             register with `mov`, which KVM knows, and count in the processor."
        ));
    }
    let Some(said) = after(text, "bits that are set: ") else {
        return Err(format!("The guest said no number: {text}"));
    };
    let reads = text.lines().find_map(|line| {
        let (count, rest) = line.trim().split_once(' ')?;
        let is_register = rest.trim().starts_with("read  memory 0xc0000004");
        is_register.then(|| count.parse::<u64>().ok())?
    });
    match (reads.unwrap_or(0), said) {
        (0, _) => Err(
            "The guest never read the register: the device inverts what is written, and only it \
             can say so."
                .into(),
        ),
        (1, BITS) => Ok(()),
        (1, said) => Err(format!(
            "The guest said {said:08x}, and {BITS:08x} is wanted: {BITS} bits of the register are \
             set."
        )),
        (reads, _) => Err(format!(
            "The guest read the register {reads} times, and each read is an exit: keep what the \
             first has loaded."
        )),
    }
}
