//! The command line: flags and commands. [`vmm::config`] parses the values of flags.
//!
//! The hints of errors, in all crates, name flags to type. A test in this file checks that these
//! flags exist.

pub mod config_file;
pub mod ctl;
pub mod explain;
pub mod host;
pub mod run;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use config_file::ConfigFileError;
use run::{GuestArgs, RunArgs};
use trace::cli::TraceArgs;

/// Boots a Linux kernel under KVM and passes real PCI devices through to it with VFIO.
#[derive(Debug, Parser)]
#[command(
    name = "mini-vmm",
    version,
    override_usage = "\
mini-vmm [OPTIONS] --kernel <PATH>
       mini-vmm [OPTIONS] --config <FILE>
       mini-vmm <COMMAND>",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "\
Bind a device to vfio-pci, pass it through, and give it back:
  sudo mini-vmm host bind 0000:01:00.0 --user $USER
  mini-vmm --kernel bzImage --initrd initrd.img --vfio 0000:01:00.0
  sudo mini-vmm host unbind 0000:01:00.0

Or all three steps in one, as root:
  mini-vmm --kernel bzImage --initrd initrd.img --vfio 0000:01:00.0,managed=on

The guest's serial port is your terminal; Ctrl-A p presses the guest's power
button, Ctrl-A x quits, Ctrl-A h shows help.
SIGTERM and SIGINT end the run cleanly. SIGUSR1 prints the number of exits to
mini-vmm, and the report of --stats.

Exit status: 0 after the guest powered off or you ended the run, 1 after an
error, 2 if the command line cannot be parsed, 3 after a triple fault with
--no-reboot."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Kernel to boot: a bzImage, or an ELF vmlinux
    #[arg(long, value_name = "PATH", required_unless_present = "config")]
    kernel: Option<PathBuf>,

    #[command(flatten)]
    guest: GuestArgs,

    /// Log more: -v events, -vv each ioctl, -vvv each access of the guest
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
}

/// The commands besides a run. clap builds the flags of a command only when the command is used:
/// building the flags of all commands would take a twentieth of the time to a guest's first
/// instruction. The purpose of a command is therefore written twice: once in this enum for the list
/// of commands, and once beside its flags for its own help.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Check and list the host's PCI devices, bind them, and give them back
    #[command(subcommand)]
    Host(host::HostCommand),

    /// Show what a run would do with its devices, without starting a VM
    #[command(after_help = "\
explain opens a device that is bound to vfio-pci as a run does, which resets
the device. For any other device it reads sysfs, which shows more to root. The
command accepts the flags of a run, so you can put `explain` in front of them.

Example:
  mini-vmm explain --vfio 0000:01:00.0 --memory 4G")]
    Explain(Box<explain::ExplainArgs>),

    /// Ask or change a running guest, through the socket of its --api-socket
    #[command(after_help = "\
The run must have --api-socket PATH. Only root and the user of that run may use
the socket.

Example:
  mini-vmm ctl /run/user/1000/guest.sock info")]
    Ctl(ctl::CtlArgs),

    /// Run a command, and show its KVM, VFIO and iommufd calls, and what its guest does
    #[command(after_help = trace::cli::EXAMPLES)]
    Trace(Box<TraceArgs>),

    /// Print a script that completes commands and flags in a shell
    #[command(after_help = "\
For bash:  mini-vmm completions bash > /etc/bash_completion.d/mini-vmm
For zsh:   mini-vmm completions zsh > /usr/local/share/zsh/site-functions/_mini-vmm
For fish:  mini-vmm completions fish > ~/.config/fish/completions/mini-vmm.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The action that the command line selects.
#[derive(Debug)]
pub enum Action {
    /// Run a guest.
    Run(Box<RunArgs>),
    /// Look at the host's devices, bind them or give them back.
    Host(host::HostCommand),
    /// Explain what a run would do.
    Explain(Box<explain::ExplainArgs>),
    /// Ask or change a running guest.
    Ctl(ctl::CtlArgs),
    /// Execute the program that traces a command.
    Trace,
    /// Print a completion script.
    Completions(Shell),
}

/// The reason why a command line cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A usage error, or a request for help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A mistake in the file of `--config`.
    #[error(transparent)]
    File(#[from] ConfigFileError),
}

impl Cli {
    /// Parses a command line, which begins with the program's name, and the file of its `--config`.
    ///
    /// # Errors
    /// The command line or the file has a mistake.
    pub fn read(arguments: impl Iterator<Item = OsString>) -> Result<Self, CliError> {
        let mut arguments: Vec<_> = arguments.collect();
        let mut matches = Self::command().try_get_matches_from(&arguments)?;
        let Some((of_run, path)) = config_of(&matches) else {
            return Ok(Self::from_arg_matches_mut(&mut matches)?);
        };
        let run = Self::command();
        let given = run.get_arguments().map(|arg| arg.get_id().as_str());
        let by_line = |id: &&str| of_run.value_source(id) == Some(ValueSource::CommandLine);
        let given: Vec<_> = given.filter(by_line).collect();
        let more = config_file::arguments(&path, &run, &given)?;
        // Behind the command, whose flags they are.
        let command = matches.subcommand_name();
        let is_command = |argument: &OsString| command.is_some_and(|name| *argument == *name);
        let start = arguments.iter().position(is_command).unwrap_or(0) + 1;
        arguments.splice(start..start, more);
        // The command line alone was good.
        let cli = Self::try_parse_from(arguments);
        let cli = cli.map_err(|e| config_file::refusal(&path, &e))?;
        match (&cli.command, &cli.kernel) {
            (None, None) => Err(ConfigFileError::NoKernel(path).into()),
            _ => Ok(cli),
        }
    }

    /// The log level: 0 warnings, 1 events, 2 ioctls, 3 accesses.
    pub fn verbosity(&self) -> u8 {
        self.verbose
    }

    /// Whether `--stats` is given.
    pub fn has_stats(&self) -> bool {
        self.guest.has_stats()
    }

    /// The action that the command line selects.
    ///
    /// # Errors
    /// A usage error: the command line has neither a command nor a kernel.
    pub fn into_action(self) -> Result<Action, clap::Error> {
        match (self.command, self.kernel) {
            (Some(Command::Host(command)), _) => Ok(Action::Host(command)),
            (Some(Command::Explain(args)), _) => Ok(Action::Explain(args)),
            (Some(Command::Ctl(args)), _) => Ok(Action::Ctl(args)),
            // The other program parses the same flags again.
            (Some(Command::Trace(_)), _) => Ok(Action::Trace),
            (Some(Command::Completions { shell }), _) => Ok(Action::Completions(shell)),
            (None, Some(kernel)) => Ok(Action::Run(Box::new(RunArgs {
                kernel,
                guest: self.guest,
            }))),
            // clap requires the flag if there is no command, so this line is never reached.
            (None, None) => Err(Self::command().error(
                clap::error::ErrorKind::MissingRequiredArgument,
                "--kernel is missing",
            )),
        }
    }
}

/// The flags of a run and the value of `--config` among them.
fn config_of(matches: &ArgMatches) -> Option<(&ArgMatches, PathBuf)> {
    let of_run = match matches.subcommand() {
        None => matches,
        Some(("explain", flags)) => flags,
        Some(_) => return None,
    };
    let path = of_run.get_one::<PathBuf>("config")?;
    Some((of_run, path.clone()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Flags of other programs in hints and scripts: `--stop` of mdadm, `--device` of docker and
    /// podman, `--format` of squeue.
    const OTHERS: &[&str] = &["device", "format", "stop"];

    fn flags(command: &clap::Command, all: &mut BTreeSet<String>) {
        let longs = command.get_arguments().filter_map(clap::Arg::get_long);
        all.extend(longs.map(String::from));
        command.get_subcommands().for_each(|c| flags(c, all));
    }

    /// Collects each `--word` that follows a quotation mark. `bench` is a program of its own, with
    /// other flags.
    fn named(dir: &Path, all: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !["bench", "cli", "tests"].contains(&name) {
                named(&path, all);
            } else if path.is_file() && !["cli.rs", "options.rs", "tests.rs"].contains(&name) {
                let text = fs::read_to_string(&path).unwrap();
                for (_, line) in text.lines().filter_map(|line| line.split_once('"')) {
                    for (at, _) in line.match_indices("--") {
                        let word = &line[at + 2..];
                        let end = word.find(|c: char| !(c.is_ascii_lowercase() || c == '-'));
                        let word = &word[..end.unwrap_or(word.len())];
                        if !word.is_empty() {
                            all.insert(word.into());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn hints_name_flags_that_there_are() {
        let (mut known, mut used) = (BTreeSet::new(), BTreeSet::new());
        let mut command = Cli::command();
        command.build();
        flags(&command, &mut known);
        known.extend(OTHERS.iter().map(|other| String::from(*other)));
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        named(&src, &mut used);
        assert!(used.contains("memory") && used.contains("force"));
        let unknown: Vec<_> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?} are no flags");
    }

    /// Each command with its purpose.
    fn purposes(command: &clap::Command) -> Vec<(String, Option<String>)> {
        let commands = command.get_subcommands();
        commands
            .flat_map(|c| {
                let own = (c.get_name().into(), c.get_about().map(ToString::to_string));
                [vec![own], purposes(c)].concat()
            })
            .collect()
    }

    #[test]
    fn a_command_says_the_same_in_the_list_and_in_its_help() {
        let listed = purposes(&Cli::command());
        let mut built = Cli::command();
        built.build();
        let built = purposes(&built);
        // The verbs of `ctl` are not in the list: clap adds them with the flags of `ctl`.
        assert!(listed.iter().all(|command| built.contains(command)));
        assert_eq!((listed.len(), built.len()), (12, 23));
        assert!(built.iter().all(|(_, purpose)| purpose.is_some()));
    }
}
