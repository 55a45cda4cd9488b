//! The number of threads that fill RAM.

/// The number of threads with which mini-vmm fills the RAM for a device. One CPU is left for the
/// rest of the start.
pub fn threads(cpus: u32) -> u32 {
    cpus.saturating_sub(1).max(1)
}

/// The name of the quantity "RAM filled by this number of threads".
pub fn filled(threads: u32) -> String {
    let s = if threads == 1 { "" } else { "s" };
    format!("filled by {threads} thread{s}")
}
