//! `make man`: the manual pages of mini-vmm and of each of its commands, made from the same
//! definitions as `--help`. They go to the directory that is named, `target/man` for one.

use std::path::PathBuf;
use std::{env, fs, io};

use clap::CommandFactory;
use mini_vmm::cli::Cli;

fn main() -> io::Result<()> {
    let dir: PathBuf = env::args_os()
        .nth(1)
        .map_or("target/man".into(), PathBuf::from);
    fs::create_dir_all(&dir)?;
    clap_mangen::generate_to(Cli::command(), &dir)
}
