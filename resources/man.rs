//! `make man`: writes the manual pages of mini-vmm, of each command and of mini-vmm-bench to the
//! directory that the first argument names, or to `target/man`. Their text is that of `--help`.

use std::path::PathBuf;
use std::{env, fs, io};

use clap::CommandFactory;
use mini_vmm::cli::Cli;

fn main() -> io::Result<()> {
    let dir: PathBuf = env::args_os()
        .nth(1)
        .map_or("target/man".into(), PathBuf::from);
    fs::create_dir_all(&dir)?;
    clap_mangen::generate_to(Cli::command(), &dir)?;
    clap_mangen::generate_to(mini_vmm_bench::cli::Cli::command(), &dir)
}
