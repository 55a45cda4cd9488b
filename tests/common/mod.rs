//! What the test targets share: guests and the files they boot from.

// Each target uses a part of it.
#![allow(dead_code)]

pub mod asm;
pub mod config_space;
pub mod elf;
pub mod golden;
pub mod kernels;
pub mod schema;
pub mod transcript;
pub mod witness;
