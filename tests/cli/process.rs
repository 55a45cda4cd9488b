//! mini-vmm as a process: one that is refused, and one that runs a guest.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::asm::Asm;
use crate::common::elf::{self, TempFile};
use crate::{skipped, sys};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mini-vmm");
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The run was refused: one message, one hint, status 1, and nothing on standard output. `message`
/// and `hint` must be parts of the two lines.
#[track_caller]
pub fn refused(arguments: &[&str], message: &str, hint: &str) {
    let mut command = assert_cmd::Command::new(PROGRAM);
    let output = command
        .args(arguments)
        .timeout(TIME_LIMIT)
        .output()
        .unwrap();
    check_refusal(&output, message, hint);
}

#[track_caller]
pub fn check_refusal(output: &Output, message: &str, hint: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let [first, second] = lines[..] else {
        panic!("not two lines: {said}");
    };
    let first = first.strip_prefix("mini-vmm: ");
    let first = first.unwrap_or_else(|| panic!("no name: {said}"));
    let second = second.strip_prefix("hint: ");
    let second = second.unwrap_or_else(|| panic!("no hint: {said}"));
    assert!(first.contains(message), "{message:?} is not in {said}");
    assert!(second.contains(hint), "{hint:?} is not in {said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Runs a command as an unprivileged user; prints why if that is not possible.
pub fn as_nobody(command: &mut Command) -> Option<Output> {
    const NOBODY: u32 = 65534;
    let outcome = command.uid(NOBODY).gid(NOBODY).output();
    outcome
        .inspect_err(|e| skipped(&format!("cannot become another user: {e}")))
        .ok()
}

/// A kernel that is a tiny guest.
pub fn kernel(build: impl FnOnce(&mut Asm)) -> TempFile {
    let mut guest = Asm::new();
    build(&mut guest);
    TempFile::new(&elf::image(&guest.finish()))
}

/// What was read of a stream so far. The reading thread owns the other reference until the end.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    /// Listens until the stream ends.
    pub fn listen(mut stream: impl Read + Send + 'static) -> Self {
        let heard = Self::default();
        let to = heard.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                to.0.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        heard
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// Whether all has been heard.
    fn ended(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        eventually(&format!("{text:?}"), || self.text().contains(text));
    }
}

/// mini-vmm with a guest. It does not outlive the test.
pub struct Running {
    child: Child,
    pub stdin: Option<ChildStdin>,
    pub stdout: Heard,
    pub stderr: Heard,
    _kernel: Option<TempFile>,
}

impl Running {
    /// Runs a guest with all three streams in the test's hands.
    pub fn start(kernel: TempFile, arguments: &[&str]) -> Self {
        let mut command = command(&kernel, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self::spawn(command, kernel)
    }

    /// Runs a command whose standard output is listened to if it is piped.
    pub fn spawn(mut command: Command, kernel: TempFile) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().map(Heard::listen).unwrap_or_default();
        let stderr = child.stderr.take().map(Heard::listen).unwrap_or_default();
        Self {
            stdin: child.stdin.take(),
            stdout,
            stderr,
            child,
            _kernel: Some(kernel),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        sys::kill(self.child.id(), signal);
    }

    /// Waits for the end of the process and of its output; returns the exit status.
    #[track_caller]
    pub fn status(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the end", || {
            status = self.child.try_wait().unwrap();
            status.is_some() && self.stdout.ended() && self.stderr.ended()
        });
        status.unwrap().code()
    }

    /// Waits for an orderly end: status 0, and no message.
    #[track_caller]
    pub fn ends_well(&mut self) {
        let status = self.status();
        assert_eq!((status, &*self.stderr.text()), (Some(0), ""));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// mini-vmm with this kernel, not started.
pub fn command(kernel: &TempFile, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .arg("--kernel")
        .arg(kernel.path())
        .args(["--memory", "64M"]);
    command.args(arguments);
    command
}

/// Waits until something becomes true.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + TIME_LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "waiting in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
