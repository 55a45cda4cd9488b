//! By how many threads RAM is filled.

/// How many threads fill mini-vmm's RAM for a device: one CPU is left to the rest of the set-up.
pub fn threads(cpus: u32) -> u32 {
    cpus.saturating_sub(1).max(1)
}

/// The name of the quantity: RAM filled by so many threads.
pub fn filled(threads: u32) -> String {
    let s = if threads == 1 { "" } else { "s" };
    format!("filled by {threads} thread{s}")
}
