//! `make lab-shell` on a pseudo-terminal, with a program in place of a person.

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use lab::host::{self, Host};

/// What is typed, one line at each prompt. A guest would read what is typed too early.
const TYPED: [&str; 5] = [
    "mini-vmm host bind 00:05.0",
    "mini-vmm $boot --cmdline quiet --vfio 00:05.0 --stats",
    "mini-vmm host unbind 00:05.0",
    "echo the driver is $(driver_of 0000:00:05.0), $(mini-vmm-trace --version)",
    "exit",
];

/// What the shell prints when it waits.
const PROMPT: &str = "L1:~# ";

/// The time for a whole shell, with building what L1 needs, on a host that is busy.
const LIMIT: Duration = Duration::from_secs(300);

/// `make lab-shell`, and its terminal.
struct Shell {
    child: Child,
    keyboard: File,
    terminal: OwnedFd,
    deadline: Instant,
}

impl Shell {
    fn start() -> Self {
        let (mut ours, mut theirs) = (-1, -1);
        let none = ptr::null_mut();
        // SAFETY: both numbers are written, and the name, the modes and the size may be null.
        let opened = unsafe {
            libc::openpty(
                &raw mut ours,
                &raw mut theirs,
                none,
                none.cast(),
                none.cast(),
            )
        };
        assert_eq!(opened, 0);
        // SAFETY: openpty has just opened both descriptors, and nothing else has them.
        let (keyboard, terminal) =
            unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let child = Command::new(env!("CARGO_BIN_EXE_shell"))
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            keyboard,
            terminal,
            deadline: Instant::now() + LIMIT,
        }
    }

    /// The terminal's modes of input, output and the line.
    fn modes(&self) -> [u32; 3] {
        let mut modes = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr writes the structure, and initialises all of it if it returns 0.
        let modes = unsafe {
            let read = libc::tcgetattr(self.terminal.as_raw_fd(), modes.as_mut_ptr());
            assert_eq!(read, 0);
            modes.assume_init()
        };
        [modes.c_iflag, modes.c_oflag, modes.c_lflag]
    }

    fn has_output(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.keyboard.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure is read and written.
        unsafe { libc::poll(&raw mut poll, 1, 100) > 0 }
    }

    /// Adds to the text what is printed, until the shell waits or has ended.
    fn read_to_prompt(&mut self, text: &mut String) {
        self.read_to(PROMPT, text);
    }

    fn read_to(&mut self, end: &str, text: &mut String) {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(end.as_bytes()) {
            if self.has_output() {
                self.keyboard.read_exact(&mut byte).unwrap();
                bytes.extend(byte);
            } else if self.child.try_wait().unwrap().is_some() {
                break;
            } else {
                let so_far = String::from_utf8_lossy(&bytes);
                assert!(
                    Instant::now() < self.deadline,
                    "no {end:?}:\n{text}{so_far}"
                );
            }
        }
        text.push_str(&String::from_utf8_lossy(&bytes));
    }

    fn type_in(&mut self, typed: &str) {
        self.keyboard.write_all(typed.as_bytes()).unwrap();
    }

    /// The exit status. The shell has ended, or is about to.
    fn ended(&mut self, text: &mut String) -> ExitStatus {
        self.read_to_prompt(text);
        let status = self.child.try_wait().unwrap();
        status.unwrap_or_else(|| panic!("the shell did not end:\n{text}"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Both calls fail only if the process has ended already. The kernel ends QEMU with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether this host runs the lab. If not, says why.
fn can_run() -> bool {
    let found = Host::find();
    if let Err(why) = &found {
        assert!(!host::required(), "{why}");
        println!("SKIPPED: {why}");
    }
    found.is_ok()
}

#[test]
#[ignore = "boots an emulated machine; `make test-all` runs it"]
fn a_shell_in_l1_passes_a_disk_through_and_exit_ends_it() {
    if !can_run() {
        return;
    }
    let mut shell = Shell::start();
    let mut text = String::new();
    for line in TYPED {
        shell.read_to_prompt(&mut text);
        shell.type_in(line);
        shell.type_in("\r");
    }
    let status = shell.ended(&mut text);
    for part in [
        "This is L1",
        "0000:00:05.0",
        "L2: done poweroff",
        "exits to mini-vmm: ",
        "the driver is nvme, mini-vmm-trace ",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    assert!(!text.contains("can't access tty"), "{text}");
    assert!(status.success(), "{text}");
}

#[test]
#[ignore = "boots an emulated machine; `make test-all` runs it"]
fn a_key_and_a_signal_end_the_shell_and_the_terminal_is_as_before() {
    if !can_run() {
        return;
    }
    for by_key in [true, false] {
        let mut shell = Shell::start();
        let before = shell.modes();
        let mut text = String::new();
        shell.read_to_prompt(&mut text);
        assert_ne!(shell.modes(), before, "{text}");
        // Ctrl-C is L1's: the shell there goes on.
        shell.type_in("echo number $((40 + 2)); sleep 1000\r");
        shell.read_to("number 42", &mut text);
        // Between the two commands, the shell alone would get Ctrl-C.
        thread::sleep(Duration::from_millis(300));
        shell.type_in("\x03");
        shell.read_to_prompt(&mut text);
        // Ctrl-A is a guest's, and so neither ends L1 with x nor without.
        shell.type_in("\x01x\r");
        shell.read_to_prompt(&mut text);
        assert!(text.ends_with(PROMPT), "L1 has ended:\n{text}");
        if by_key {
            shell.type_in("\x1dx");
        } else {
            let child = shell.child.id().cast_signed();
            // SAFETY: kill touches no memory. The child is not reaped yet.
            assert_eq!(unsafe { libc::kill(child, libc::SIGTERM) }, 0);
        }
        let status = shell.ended(&mut text);
        assert_eq!(shell.modes(), before, "{text}");
        assert!(status.success(), "{status}:\n{text}");
    }
}
