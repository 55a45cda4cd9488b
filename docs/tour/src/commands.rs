//! Runs the commands of chapters, each once.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process_group};

/// What a command printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output and standard error, as they came.
    pub text: String,
    /// The exit status.
    pub status: i32,
}

/// Runs commands, and keeps their outputs.
pub struct Commands {
    root: PathBuf,
    /// What is known already. A test changes these.
    pub known: HashMap<String, Output>,
}

/// No command of a chapter takes longer.
const LIMIT: Duration = Duration::from_secs(60);

impl Commands {
    /// Runs commands in the folder `root`.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            known: HashMap::new(),
        }
    }

    /// Builds the programs that chapters run.
    ///
    /// # Errors
    /// A sentence with the compiler's messages.
    pub fn build(&self) -> Result<(), String> {
        let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let packages = "--package mini-vmm --package tour-vmm --bins";
        let built = self.shell(&format!("{cargo} build --quiet {packages}"), 20 * LIMIT)?;
        match built.status {
            0 => Ok(()),
            _ => Err(format!("the programs do not build:\n{}", built.text)),
        }
    }

    /// Builds the program that runs commands in the emulated machine.
    ///
    /// # Errors
    /// A sentence with the compiler's messages.
    pub fn build_lab(&self) -> Result<(), String> {
        let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let command = format!("{cargo} build --quiet --package lab --bin shell");
        let built = self.shell(&command, 20 * LIMIT)?;
        match built.status {
            0 => Ok(()),
            _ => Err(format!("the lab does not build:\n{}", built.text)),
        }
    }

    /// What a command prints.
    ///
    /// # Errors
    /// It cannot be run, or does not end.
    pub fn run(&mut self, command: &str) -> Result<Output, String> {
        if let Some(known) = self.known.get(command) {
            return Ok(known.clone());
        }
        let output = self.shell(command, LIMIT)?;
        self.known.insert(command.into(), output.clone());
        Ok(output)
    }

    /// Runs a command that nobody keeps.
    ///
    /// # Errors
    /// It cannot be run, or does not end within `limit`.
    pub fn shell(&self, command: &str, limit: Duration) -> Result<Output, String> {
        let command = match env::var("CARGO_TARGET_DIR") {
            Ok(folder) => &command.replace("target/debug/", &format!("{folder}/debug/")),
            Err(_) => command,
        };
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &format!("exec 2>&1; {command}")])
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .env("LC_ALL", "C.UTF-8")
            .env("NO_COLOR", "1")
            .env_remove("MAKEFLAGS");
        let child = shell.process_group(0).spawn();
        let child = child.map_err(|e| format!("bash: {e}"))?;
        finish(child, limit).map_err(|e| format!("`{command}` {e}"))
    }
}

/// Waits for a program, which is a process group of its own. What does not end within `limit` is
/// killed.
///
/// # Errors
/// What happened, without the program's name.
pub fn finish(mut child: Child, limit: Duration) -> Result<Output, String> {
    let pipe = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        read.transpose().map(|_| bytes)
    });
    let end = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                // The only error is that it has ended by now.
                let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                let _ = group.map(|group| kill_process_group(group, Signal::KILL));
                let _ = child.wait();
                return Err(format!("did not end within {} s", limit.as_secs()));
            }
            Err(e) => return Err(format!("cannot be waited for: {e}")),
        }
    };
    let bytes = reader.join().map_err(|_| "was not read".to_owned())?;
    let bytes = bytes.map_err(|e| format!("cannot be read: {e}"))?;
    Ok(Output {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        status: status.code().unwrap_or(-1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_command_outlives_its_limit() {
        let commands = Commands::new("/".into());
        let limit = Duration::from_millis(300);
        let begun = Instant::now();
        let error = commands.shell("echo $$; sleep 77777 | cat", limit);
        assert!(error.unwrap_err().ends_with("did not end within 0 s"));
        assert!(begun.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(100));
        let left = commands.shell("pgrep -f 'sleep 7777[7]'; true", Duration::from_secs(20));
        assert_eq!(left.unwrap().text, "");
    }
}
