//! Chapter 10: a guest of mini-vmm that sends the content of its initrd.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::check::assembled;

const LIMIT: Duration = Duration::from_secs(5);
/// The command line that mini-vmm makes of these words begins with its console.
const WORDS: &str = "some words";

/// Checks a guest by what it sends, with two initrds of different sizes. Each has a zero in it.
///
/// # Errors
/// What to look at next.
pub fn check(source: &Path) -> Result<(), String> {
    let program = assembled::assemble(source, "elf")?;
    let long = format!("a line\0{}", "another line\n".repeat(20));
    let kernel = program.0.to_string_lossy();
    let initrd = program.0.with_extension("initrd");
    ["one\0two\n", &long]
        .iter()
        .try_for_each(|text| check_one(&kernel, &initrd, text))
}

fn check_one(kernel: &str, path: &Path, wanted: &str) -> Result<(), String> {
    let size = wanted.len();
    fs::write(path, wanted).map_err(|e| format!("{}: {e}", path.display()))?;
    let initrd = path.to_string_lossy();
    let arguments = ["--kernel", kernel, "--initrd", &initrd, "--cmdline", WORDS];
    let ended = assembled::run("mini-vmm", &arguments, LIMIT);
    // It was written.
    let _ = fs::remove_file(path);
    let output = ended.map_err(|why| {
        format!(
            "The guest {why}: `loop` counts %ecx down to zero, and from zero it takes \
             4,294,967,296 rounds, so look at where the size is read."
        )
    })?;
    if output.status != 0 {
        return Err(format!(
            "mini-vmm ended with status {}; its own words are the next step: {}",
            output.status,
            output.text.lines().next().unwrap_or("none")
        ));
    }
    let sent = output.text.as_str();
    if sent == wanted {
        return Ok(());
    }
    let before_zero = wanted.split('\0').next().unwrap_or_default();
    Err(match sent {
        "" => {
            "The guest sent nothing: the list of modules is where the eight bytes at 16 say.".into()
        }
        sent if sent.contains(WORDS) => {
            "The guest sent the command line: the address of that is at 24, and the address of the \
             list of modules is at 16."
                .into()
        }
        sent if sent == before_zero => format!(
            "The guest sent {} of {size} bytes, up to a zero: an initrd is no text, and its size \
             stands in the list, 8 bytes after its address.",
            sent.len()
        ),
        sent if wanted.starts_with(sent) => format!(
            "The guest sent {} of {size} bytes: the size differs from run to run, and stands in \
             the list, 8 bytes after the address.",
            sent.len()
        ),
        _ => {
            "The guest sent other bytes than those of the initrd: at 16 is the address of a list, \
             and in the list is the address of the initrd."
                .into()
        }
    })
}
