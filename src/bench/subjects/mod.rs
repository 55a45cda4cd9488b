//! What is measured: the host's own driver, and guests of mini-vmm.
//!
//! | file | content |
//! | --- | --- |
//! | `program` | a mini-vmm: its path, version and hash |
//! | `list` | the subjects of a run |
//! | `trial` | what a turn gives |
//! | `counts` | exits, wake-ups and CPU time of reads |
//! | `host` | a turn of the host's own driver |
//! | `child` | a VMM as a child process, which never outlives this one |
//! | `mini_vmm` | a turn of a guest of mini-vmm |

mod child;
pub mod counts;
pub mod host;
pub mod list;
pub mod mini_vmm;
pub mod program;
pub mod trial;
