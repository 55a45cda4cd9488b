//! The half of an interrupt's way that makes no exit and no call: events of the kernel's own, from
//! a tracefs instance (Documentation/trace/events.rst), in the same stream as the calls.
//!
//! Records are read in binary form (`trace_pipe_raw`), by the `format` file of each event. The text
//! of `trace_pipe` has microseconds only, its words differ from kernel to kernel, and a program's
//! name could make a line look like another.

pub mod calls;
pub mod code;
pub mod format;
pub mod instance;
pub mod kept;
pub mod order;
pub mod owner;
pub mod page;
pub mod program;
pub mod source;
#[cfg(test)]
mod tests;
