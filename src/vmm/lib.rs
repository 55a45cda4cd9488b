//! The virtual machine monitor: KVM, the guest's memory and boot, and devices by VFIO.

pub mod boot;
pub mod broker;
pub mod bus;
pub mod coalesced;
pub mod config;
pub mod console;
pub mod control;
pub mod counters;
pub mod devices;
pub mod errnos;
pub mod event_thread;
pub mod exit;
pub mod given;
pub mod gsi;
pub mod guest_event;
pub mod hostinfo;
pub mod layout;
pub mod lifecycle;
pub mod log;
pub mod machine;
pub mod memory;
#[cfg(all(test, feature = "models"))]
mod models;
pub mod plug;
pub mod port;
pub mod run_events;
pub mod sandbox;
pub mod stats;
mod sync;
pub mod sys;
pub mod vcpu;
pub mod vfio;
