//! The program `mini-vmm-trace`, which `mini-vmm trace` starts.

fn main() {}
