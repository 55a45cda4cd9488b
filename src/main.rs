//! Parse, build, run, exit code.

use std::error::Error;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use mini_vmm::cli::Cli;
use mini_vmm::config::VmConfig;
use mini_vmm::console::{Console, Stdout};
use mini_vmm::lifecycle::Lifecycle;
use mini_vmm::machine::{Exit, Machine, MachineError};
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.verbosity());
    let config = match cli.into_config() {
        Ok(config) => config,
        Err(e) => return fail(&e, Some(e.hint())),
    };
    match run(config) {
        Ok(exit) => ExitCode::from(exit.status()),
        Err(e) => fail(&e, e.hint()),
    }
}

fn run(config: VmConfig) -> Result<Exit, MachineError> {
    let mut machine = Machine::new(config, Box::new(Stdout::new()))?;
    let console = Console::new(machine.serial()).map_err(MachineError::Loop)?;
    let mut lifecycle = Lifecycle::new(machine.notifier(), machine.exits(), Some(console))
        .map_err(MachineError::Loop)?;
    machine.run(&mut lifecycle)
}

/// One sentence with its causes, and what to type.
fn fail(error: &dyn Error, hint: Option<String>) -> ExitCode {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let text = e.to_string();
        // A source that says what was said already adds nothing.
        if !sentence.ends_with(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = e.source();
    }
    eprintln!("mini-vmm: {sentence}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(1)
}

fn log_to_stderr(verbosity: u8) {
    let level = match verbosity {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}
