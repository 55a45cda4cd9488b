//! Another program, run to its end.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::tied::tie;

/// No program says more that is worth reading.
const LONGEST: u64 = 8 << 20;

/// Runs a program and returns what it says on standard output.
///
/// # Errors
/// It cannot be started, fails or does not end in time; or the user has ended the measurement.
pub fn run(mut command: Command, limit: Duration, stop: &AtomicBool) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    // A server that stayed would keep its network, and a port in it.
    tie(&mut command, Stdio::null());
    let mut child = command.spawn().context(format!("cannot start {name}"))?;
    let (out, errors) = (child.stdout.take(), child.stderr.take());
    let out = thread::spawn(move || text(out));
    let errors = thread::spawn(move || text(errors));
    let started = Instant::now();
    let ended = loop {
        if let Some(status) = child
            .try_wait()
            .context(format!("cannot wait for {name}"))?
        {
            break Ok(status);
        }
        let stopped = stop.load(Ordering::Relaxed);
        if stopped || started.elapsed() > limit {
            // A child that has just ended needs no signal.
            let _ = child.kill();
            let _ = child.wait();
            break Err(match stopped {
                true => Error::interrupted(),
                false => Error::new(format!("{name} did not end in {} s", limit.as_secs())),
            });
        }
        thread::sleep(Duration::from_millis(10));
    };
    let status = ended?;
    let (out, errors) = (out.join(), errors.join());
    let out = out.unwrap_or_default();
    match status.success() {
        true => Ok(out),
        false => {
            let said = errors.unwrap_or_default();
            let said = said
                .lines()
                .last()
                .or(out.lines().last())
                .unwrap_or_default();
            Err(Error::new(format!("{name} ended with {status}: {said}")))
        }
    }
}

fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error is what there is.
        let _ = pipe.take(LONGEST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration, stop: bool) -> Result<String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        run(command, limit, &AtomicBool::new(stop))
    }

    #[test]
    fn a_program_s_words_and_its_end_are_heard() {
        let long = Duration::from_secs(30);
        assert_eq!(sh("echo a; echo b >&2", long, false).unwrap(), "a\n");
        let failed = sh("echo why >&2; exit 3", long, false).unwrap_err();
        assert!(failed.to_string().ends_with("3: why"), "{failed}");
        let late = sh("exec sleep 60", Duration::from_millis(50), false).unwrap_err();
        assert!(late.to_string().contains("did not end"), "{late}");
        assert!(
            sh("exec sleep 60", long, true)
                .unwrap_err()
                .is_interrupted()
        );
        let none = run(Command::new("/no/program"), long, &AtomicBool::new(false));
        assert!(none.is_err());
    }
}
