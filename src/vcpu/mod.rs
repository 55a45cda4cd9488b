//! Virtual CPUs.

pub mod cpuid;
