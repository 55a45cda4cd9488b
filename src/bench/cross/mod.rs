//! Other programs that measure the same work by the host's own driver, so that this program's
//! figures need not be believed alone: fio(1) for disks, iperf3(1) for links.
//!
//! | file | content |
//! | --- | --- |
//! | `check` | both figures and their ratio |
//! | `which` | which program checks which work |
//! | `tool` | another program, run to its end |
//! | `fio`, `iperf3` | their arguments, and what they say |

pub mod check;
pub mod fio;
pub mod iperf3;
pub mod tool;
pub mod which;
