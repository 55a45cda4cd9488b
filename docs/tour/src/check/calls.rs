//! Chapter 6: the calls that open a device by its group, in order, made in the emulated machine.

use crate::commands::Output;

/// What the program `take` prints for the first register of QEMU's edu device.
const REGISTER: &str = "read: 0x010000ed";

/// Makes the calls of an answer on the device.
pub fn command(answer: &str) -> String {
    format!(
        "cat >/run/answer <<'ANSWER-ENDS'
{answer}
ANSWER-ENDS
mini-vmm host bind 00:0b.0 >/dev/null 2>&1
take 0000:00:0b.0 $(grep -v '^#' /run/answer)
mini-vmm host unbind 00:0b.0 >/dev/null 2>&1"
    )
}

/// Judges by the call that failed.
///
/// # Errors
/// What to look at next.
pub fn verdict(output: &Output) -> Result<(), String> {
    let lines: Vec<_> = output
        .text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect();
    let done = |word: &str| lines.contains(&(word, "done"));
    let Some((word, said)) = lines.last() else {
        return Err("The file has no call: put one word on each line.".into());
    };
    let twice = lines.iter().enumerate();
    let mut twice = twice.filter(|(i, line)| lines[..*i].iter().any(|before| before.0 == line.0));
    if let Some((_, (word, _))) = twice.next() {
        return Err(format!("`{word}` is made twice: each call is made once."));
    }
    match *word {
        "read" if output.text.lines().any(|line| line == REGISTER) => Ok(()),
        "container" | "group" if *said == "done" => Err(format!(
            "The last call is `{word}`, which only opens a file: the device's own file is made \
             from the group."
        )),
        "join" => Err(format!(
            "`join` failed ({said}): it puts an open group into an open container, so both must be \
             open before it."
        )),
        "iommu" if !done("join") => Err(format!(
            "`iommu` failed ({said}): a container has no devices, and so no IOMMU, before a group \
             has joined it."
        )),
        "device" if !done("group") => Err(format!(
            "`device` failed ({said}): the device's file is made from its group, which is not open \
             yet."
        )),
        "device" if !done("join") || !done("iommu") => Err(format!(
            "`device` failed ({said}): a device is given out only when an IOMMU stands between it \
             and memory, so its group joins a container with an IOMMU first."
        )),
        "read" => Err(format!(
            "`read` failed ({said}): it reads the device's own file, so `device` comes before it."
        )),
        _ if *said == "done" => Err(
            "All calls were made, and nobody looked at the device: the last one is `read`.".into(),
        ),
        _ => Err(format!(
            "`{word}` failed: {said}. The words are those of the gap, each once."
        )),
    }
}
