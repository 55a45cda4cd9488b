//! `mini-vmm trace`: executes `mini-vmm-trace`. That is a program of its own, so that a run carries
//! none of its code.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The program.
const NAME: &str = "mini-vmm-trace";

/// Why the program could not be executed.
#[derive(Debug, thiserror::Error)]
#[error("{NAME} is neither beside mini-vmm nor in PATH, or cannot be executed")]
pub struct TracerError(#[source] io::Error);

impl TracerError {
    /// What the user can type.
    pub fn hint(&self) -> String {
        "build it with 'make build', and copy it beside mini-vmm".into()
    }
}

/// Executes the tracer in place of this process, with the arguments after `trace`. Returns only if
/// that is not possible.
pub fn start_tracer(arguments: impl Iterator<Item = OsString>) -> TracerError {
    let arguments: Vec<_> = arguments
        .skip_while(|word| word != "trace")
        .skip(1)
        .collect();
    let own = env::current_exe().ok();
    let beside = own
        .as_deref()
        .and_then(Path::parent)
        .map(|dir| dir.join(NAME));
    let beside = beside.filter(|path| path.is_file());
    let program = beside.unwrap_or_else(|| NAME.into());
    TracerError(Command::new(program).args(arguments).exec())
}
