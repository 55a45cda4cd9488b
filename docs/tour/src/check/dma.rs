//! Chapter 7: two addresses for the edu device, which it uses in the emulated machine.

use crate::check::answer::quoted;
use crate::check::driver::{after, with_guest};
use crate::commands::Output;

/// Where the bytes are, and where they shall be; both are the guest's addresses.
const FROM: u64 = 0x20_0000;
const TO: u64 = 0x3ff_f800;
const WORDS: u64 = 512;
/// The device has 28 address bits.
const REACH: u64 = 1 << 28;

/// The address of an answer's line.
fn address(answer: &str, name: &str) -> Result<u64, String> {
    let lines = answer.lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = values.next().unwrap_or_default().trim();
    let number = value
        .strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    match number {
        Some(number) if number < REACH => Ok(number),
        Some(number) => Err(format!(
            "`{name} {number:#x}` has more than 28 bits, and the device's register has no more: \
             these are addresses of the guest, and not of a process."
        )),
        None => Err(format!(
            "`{name} {value}` has no number yet: write it after 0x."
        )),
    }
}

/// Runs a guest that gives the device these addresses.
pub fn command(answer: &str) -> String {
    let (from, to) = match (address(answer, "from"), address(answer, "to")) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(why), _) | (_, Err(why)) => {
            return format!("printf '%s\\n' {}", quoted(&format!("answer: {why}")));
        }
    };
    let guest = format!(
        "\t.include \"device.s\"
main:	call tables
	call answer
	call message
	mov ${FROM}, %edi
	mov ${WORDS}, %ecx
fill:	mov %ecx, (%edi)
	add $4, %edi
	loop fill
	mov ${from}, %eax
	mov $0x40000, %ebx
	mov $5, %ecx
	call copy
	mov $0x40000, %eax
	mov ${to}, %ebx
	mov $7, %ecx
	call copy
	mov ${FROM}, %esi
	mov ${TO}, %edi
	mov ${WORDS}, %ecx
	xor %eax, %eax
count:	cmpsl
	jne other
	inc %eax
other:	loop count
	mov $right, %esi
	jmp say
right:	.asciz \"right \"
"
    );
    let run = format!(
        "echo 'used from {from:#x} to {to:#x}'
dmesg -c >/dev/null
timeout 15 own /run/guest 0000:00:0b.0 2>&1
dmesg -c | grep 'DMAR: .*fault addr'"
    );
    with_guest(&guest, "img", &run)
}

/// Judges by what the IOMMU refused, and by what arrived.
///
/// # Errors
/// What to look at next.
pub fn verdict(output: &Output) -> Result<(), String> {
    let text = output.text.as_str();
    if let Some(why) = text.lines().find_map(|line| line.strip_prefix("answer: ")) {
        return Err(why.to_owned());
    }
    let (from, to) = (after(text, "used from "), after(text, " to "));
    let (Some(from), Some(to)) = (from, to) else {
        return Err(format!("The guest did not run: {text}"));
    };
    let fault = |kind: &str| {
        let mut lines = text.lines().filter(|line| line.contains(kind));
        lines.find_map(|line| after(line, "fault addr "))
    };
    if let Some(at) = fault("[DMA Read") {
        return Err(format!(
            "The IOMMU refused a read at {at:#x}: the device has the guest's addresses, and the \
             guest has 64 MiB."
        ));
    }
    if let Some(at) = fault("[DMA Write") {
        return Err(match to < at {
            true => format!(
                "The IOMMU refused a write at {at:#x}, and the copy began at {to:#x}: RAM ends \
                 between the two, so the 2048 bytes must begin earlier."
            ),
            false => format!(
                "The IOMMU refused a write at {at:#x}: RAM ends there, so all 2048 bytes must lie \
                 below it."
            ),
        });
    }
    match after(text, "right ") {
        Some(WORDS) => Ok(()),
        Some(words) if from != FROM => Err(format!(
            "{words} of {WORDS} words are right: the device has read at {from:#x}, and the bytes \
             stand 1 MiB above the program."
        )),
        Some(words) => Err(format!(
            "{words} of {WORDS} words are right: the device has written at {to:#x}, and the last \
             2048 bytes of RAM begin 2048 bytes before its end."
        )),
        None => Err(format!("The guest did not end: {text}")),
    }
}
