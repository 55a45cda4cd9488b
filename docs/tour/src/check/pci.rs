//! Chapter 5: a guest of mini-vmm that counts the bridges of bus 0.

use std::path::Path;
use std::time::Duration;

use crate::check::assembled;

const LIMIT: Duration = Duration::from_secs(5);
/// The numbers of root ports that the guest is run with.
const PORTS: [usize; 2] = [2, 5];

/// Checks a guest by what it counts.
///
/// # Errors
/// What to look at next.
pub fn check(source: &Path) -> Result<(), String> {
    let program = assembled::assemble(source, "elf")?;
    let kernel = program.0.to_string_lossy();
    let [few, many] = PORTS.map(|ports| count(&kernel, ports));
    let (few, many) = (few?, many?);
    match [few, many] {
        PORTS => Ok(()),
        [0, 0] => Err(format!(
            "The guest counted 0 bridges, and there are {}: register 8 has the class in its upper \
             16 bits and the revision in its lowest byte, so shift before you compare with 0x0604.",
            PORTS[0]
        )),
        [few, many] if [few, many] == PORTS.map(|ports| ports + 1) => Err(format!(
            "The guest counted {few} bridges, and there are {}: the host bridge at device 0 \
             answers too, and its class is 0x0600.",
            PORTS[0]
        )),
        _ => Err(format!(
            "The guest counted {few} of {} bridges, and {many} of {}: the device number is in bits \
             15 to 11 of the address, so shift it by 11, and look at all 32 numbers.",
            PORTS[0], PORTS[1]
        )),
    }
}

/// The number that the guest prints with so many root ports.
fn count(kernel: &str, ports: usize) -> Result<usize, String> {
    let arguments = ["--kernel", kernel, "--ports", &ports.to_string()];
    let ended = assembled::run("mini-vmm", &arguments, LIMIT);
    let output = ended.map_err(|why| {
        format!("The guest {why}: each round of the loop must look at the next device number.")
    })?;
    if output.status != 0 {
        return Err(format!(
            "mini-vmm ended with status {}; its own words are the next step: {}",
            output.status,
            output.text.lines().last().unwrap_or("none")
        ));
    }
    let text = output.text.trim_end_matches('\n');
    text.parse().map_err(|_| {
        format!(
            "The guest sent {text:?}, and wanted is one digit: a count becomes its character by \
             adding '0'."
        )
    })
}
