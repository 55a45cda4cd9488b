//! Chapter 2: a guest that sends nine digits and halts, on the machine in forty lines.

use std::path::Path;
use std::time::Duration;

use crate::check::assembled;

const WANTED: &str = "123456789";
const LIMIT: Duration = Duration::from_secs(5);

/// Checks a guest by the exits that it makes.
///
/// # Errors
/// What to look at next.
pub fn check(source: &Path) -> Result<(), String> {
    let program = assembled::assemble(source, "bin")?;
    let ended = assembled::run("forty", &[&program.0.to_string_lossy()], LIMIT);
    let output = ended.map_err(|why| {
        format!(
            "The guest {why}: look at where the loop begins, and at what its condition compares."
        )
    })?;
    let outs: Vec<_> = output.text.lines().filter_map(out).collect();
    if let Some((port, _)) = outs.iter().find(|(port, _)| port != "0x3f8") {
        return Err(format!(
            "The guest wrote to port {port}, not to 0x3f8: an `out` with the port in it has room \
             for ports up to 0xff, so put the port into %dx."
        ));
    }
    if let Some((_, bytes)) = outs.iter().find(|(_, bytes)| bytes.len() != 1) {
        return Err(format!(
            "One `out` wrote {} bytes: the name of the register says how many, and %al is the one \
             byte of %ax that COM1 wants.",
            bytes.len()
        ));
    }
    let sent: Vec<u8> = outs.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let sent = String::from_utf8_lossy(&sent);
    if sent.is_empty() && output.status == 0 {
        return Err(
            "The guest halted without an `out`: put a digit into %al and the port into \
                    %dx, and write the one to the other."
                .into(),
        );
    }
    if output.status != 0 {
        return Err(format!(
            "The guest sent \"{sent}\" and then ran into bytes that are no program: after its last \
             instruction the processor goes on, so stop it with `hlt`."
        ));
    }
    match sent == WANTED {
        true => Ok(()),
        false => Err(format!(
            "The guest sent \"{sent}\", and wanted is \"{WANTED}\": follow %al through the loop by \
             hand, from the first digit to the comparison that ends it."
        )),
    }
}

/// The port and the bytes of a line such as `out 0x3f8 [48]`.
pub(super) fn out(line: &str) -> Option<(String, Vec<u8>)> {
    let (port, rest) = line.strip_prefix("out ")?.split_once(" [")?;
    let bytes = rest.split_once(']')?.0.split(", ");
    let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16));
    Some((port.to_owned(), bytes.collect::<Result<_, _>>().ok()?))
}
