//! Readers' guests that drive the edu device in the emulated machine.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use crate::check::answer::quoted;
use crate::check::assembled;

/// The device, in L1.
pub const DEVICE: &str = "0000:00:0b.0";

/// How a program that cannot be assembled is told.
const ASSEMBLER: &str = "assembler: ";

/// The commands that put a guest's bytes, of the kind `img` or `elf`, into the file /run/guest,
/// give the device to vfio-pci, run `then`, and put the device back. What cannot be assembled is
/// printed instead.
pub fn with_guest(source: &str, kind: &str, then: &str) -> String {
    let bytes = match assemble(source, kind) {
        Ok(bytes) => bytes,
        Err(why) => {
            return format!("printf '%s\\n' {}", quoted(&format!("{ASSEMBLER}{why}")));
        }
    };
    // A command has at most 128 KiB, and a line of the shell's is better short.
    let parts = bytes.chunks(256).map(|part| {
        let octal: String = part.iter().map(|byte| format!("\\{byte:03o}")).collect();
        format!("printf '{octal}' >>/run/guest\n")
    });
    format!(
        "rm -f /run/guest\n{}\
         mini-vmm host bind {DEVICE} >/dev/null 2>&1\n\
         {then}\n\
         mini-vmm host unbind {DEVICE} >/dev/null 2>&1",
        parts.collect::<String>()
    )
}

/// The assembler's message, if the answer could not be assembled.
///
/// # Errors
/// That message.
pub fn was_assembled(text: &str) -> Result<(), String> {
    let mut lines = text.lines();
    match lines.find_map(|line| line.strip_prefix(ASSEMBLER)) {
        Some(why) => Err(why.to_owned()),
        None => Ok(()),
    }
}

fn assemble(source: &str, kind: &str) -> Result<Vec<u8>, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = env::temp_dir().join(format!("tour-answer-{}-{number}.s", process::id()));
    fs::write(&file, source).map_err(|e| format!("{}: {e}", file.display()))?;
    let program = assembled::assemble(&file, kind);
    // It has just been written.
    let _ = fs::remove_file(&file);
    let program = program?;
    let path: &Path = &program.0;
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// The hexadecimal number after a text, in the first line that has one.
pub fn after(text: &str, mark: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(mark)?;
        let rest = rest.strip_prefix("0x").unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_ascii_hexdigit());
        u64::from_str_radix(rest.get(..end.unwrap_or(rest.len()))?, 16).ok()
    })
}
