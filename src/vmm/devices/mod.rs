//! The few emulated devices: only what a Linux guest needs to boot, log and power off.

pub mod output_queue;
pub mod pm_timer;
pub mod power;
pub mod power_button;
pub mod serial;
pub mod uart;
