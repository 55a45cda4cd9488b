//! Chapter 3: a guest that finds which two of eight pages are one.

use std::path::Path;
use std::time::Duration;

use crate::check::assembled;
use crate::check::machine::out;

const LIMIT: Duration = Duration::from_secs(5);
/// The pages that are one, in each run.
const PAIRS: [(u8, u8); 3] = [(2, 5), (0, 7), (3, 4)];

/// Checks a guest by what it finds.
///
/// # Errors
/// What to look at next.
pub fn check(source: &Path) -> Result<(), String> {
    let program = assembled::assemble(source, "bin")?;
    PAIRS
        .iter()
        .try_for_each(|pair| check_pair(&program.0.to_string_lossy(), *pair))
}

fn check_pair(program: &str, (a, b): (u8, u8)) -> Result<(), String> {
    let arguments = [program, &a.to_string(), &b.to_string()];
    let ended = assembled::run("slots", &arguments, LIMIT);
    let output = ended.map_err(|why| {
        format!("The guest {why}: each loop must move on to the next page, and stop after eight.")
    })?;
    let stray = output
        .text
        .lines()
        .find(|l| l.starts_with("read") || l.starts_with("write"));
    if let Some(line) = stray {
        return Err(format!(
            "The guest touched an address without memory (\"{line}\"): the pages are at 0x10000 to \
             0x17fff, so the segment is 0x1000 and the offset of page 7 is 0x7000."
        ));
    }
    if output.status != 0 {
        return Err("The guest ran into bytes that are no program: stop it with `hlt`.".into());
    }
    let sent = output
        .text
        .lines()
        .filter_map(out)
        .flat_map(|(_, bytes)| bytes);
    let sent: Vec<u8> = sent.collect();
    if sent == [b'0' + a, b'0' + b] {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&sent);
    Err(match &sent[..] {
        [] => format!(
            "Pages {a} and {b} are one, and the guest sent nothing: give every page a mark of its \
             own first, all of them, and only then look which mark is not where it was put."
        ),
        [x, y] if [*x, *y] == [a, b] => "The guest sent the numbers themselves: a number becomes \
             its character by adding '0'."
            .into(),
        [x] if [b'0' + a, b'0' + b].contains(x) => format!(
            "Pages {a} and {b} are one, and the guest sent only \"{text}\": the mark in the page \
             that has lost its own is the number of the other."
        ),
        _ => format!(
            "Pages {a} and {b} are one, and the guest sent {text:?}: follow the marks by hand \
             through both loops."
        ),
    })
}
