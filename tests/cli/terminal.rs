//! A terminal: raw while the guest runs, restored afterwards, with keys to quit and for help.
//!
//! A shell leads the terminal's session, for the end of a session's leader resets a pseudo-terminal
//! and would hide what mini-vmm forgot to restore.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use vmm::layout::GSI_POWER_BUTTON;

use crate::common::asm::Asm;
use crate::common::elf::TempFile;
use crate::process::{Heard, PROGRAM, eventually, kernel};
use crate::sys::{self, Mode};
use crate::{kvm, skipped};

struct Session {
    shell: Child,
    terminal: OwnedFd,
    before: Mode,
    screen: Heard,
    _kernel: TempFile,
}

/// The shell runs the program, its arguments, and stays when that has ended.
const RUN: &str = "\"$@\"; echo \"status $?\"; read end";

/// As [`RUN`], in a PID namespace where another process group, of the namespace, is in the
/// terminal's foreground. The program stays in the shell's group, which has no number there.
const RUN_BEHIND_ANOTHER_GROUP: &str = "\
unshare --pid --fork sh -c '
foreground() { cut -d\" \" -f8 /proc/self/stat; }
first=$(foreground)
sh -mc \"sleep 60\" &
until [ \"$(foreground)\" != \"$first\" ]; do sleep 0.05; done
exec \"$@\"' sh \"$@\"
echo \"status $?\"; sleep 60";

impl Session {
    fn start(guest: impl FnOnce(&mut Asm), arguments: &[&str]) -> Self {
        Self::start_by(RUN, guest, arguments)
    }

    fn start_by(script: &str, guest: impl FnOnce(&mut Asm), arguments: &[&str]) -> Self {
        let kernel = kernel(guest);
        let (ours, theirs) = sys::open_terminal();
        sys::make_peculiar(&ours);
        let before = sys::mode(&ours);
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", PROGRAM, "--memory", "64M", "--kernel"]);
        command.arg(kernel.path()).args(arguments);
        let side = || Stdio::from(theirs.try_clone().unwrap());
        command.stdin(side()).stdout(side()).stderr(side());
        sys::own_terminal(&mut command);
        let shell = command.spawn().unwrap();
        Self {
            shell,
            screen: Heard::listen(File::from(ours.try_clone().unwrap())),
            terminal: ours,
            before,
            _kernel: kernel,
        }
    }

    fn type_in(&self, text: &str) {
        let mut terminal = File::from(self.terminal.try_clone().unwrap());
        terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the guest runs and the terminal is raw.
    #[track_caller]
    fn is_raw(&self) {
        self.screen.wait_for("ready");
        let mode = sys::mode(&self.terminal);
        assert!(mode.is_raw(), "{mode:?}");
    }

    /// Checks that the run has ended with this status, and that the terminal is restored.
    #[track_caller]
    fn ends_with(&self, status: i32) {
        self.screen.wait_for("status ");
        self.screen.wait_for("\r\n");
        let screen = self.screen.text();
        assert!(screen.contains(&format!("status {status}")), "{screen:?}");
        assert!(!screen.contains("panicked"), "{screen:?}");
        assert_eq!(sys::mode(&self.terminal), self.before);
    }

    /// The process id of mini-vmm, the shell's only child.
    fn pid(&self) -> u32 {
        let shell = self.shell.id();
        let path = format!("/proc/{shell}/task/{shell}/children");
        let children = fs::read_to_string(path).unwrap();
        children.trim().parse().unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let shell = self.shell.id();
        let path = format!("/proc/{shell}/task/{shell}/children");
        for child in fs::read_to_string(path)
            .unwrap_or_default()
            .split_whitespace()
        {
            if let Ok(pid) = child.parse() {
                sys::kill(pid, libc::SIGKILL);
            }
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn ready(g: &mut Asm) {
    g.print("ready").hang();
}

#[test]
fn restored_after_power_off() {
    if !kvm() {
        return;
    }
    let session = Session::start(
        |g| {
            g.print("ready").wait_key().power_off();
        },
        &[],
    );
    session.is_raw();
    session.type_in("k");
    session.ends_with(0);
}

#[test]
fn restored_after_signals() {
    if !kvm() {
        return;
    }
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let session = Session::start(ready, &[]);
        session.is_raw();
        sys::kill(session.pid(), signal);
        session.ends_with(0);
    }
}

/// The signal of lost memory ends the run with a sentence, and the terminal is restored.
#[test]
fn restored_after_a_bus_error() {
    if !kvm() {
        return;
    }
    let session = Session::start(ready, &[]);
    session.is_raw();
    sys::kill(session.pid(), libc::SIGBUS);
    session.ends_with(1);
    assert!(
        session
            .screen
            .text()
            .contains("mini-vmm: ended by a SIGBUS")
    );
}

#[test]
fn restored_after_a_triple_fault() {
    if !kvm() {
        return;
    }
    let session = Session::start(
        |g| {
            g.print("ready").wait_key().triple_fault();
        },
        &["--no-reboot"],
    );
    session.is_raw();
    session.type_in("k");
    session.ends_with(3);
}

#[test]
fn ctrl_a_x_quits_and_ctrl_a_h_helps() {
    if !kvm() {
        return;
    }
    let session = Session::start(ready, &[]);
    session.is_raw();
    session.type_in("\x01h");
    session.screen.wait_for("Ctrl-A x  quit");
    session.type_in("\x01x");
    session.ends_with(0);
}

/// The guest lets the button's pin of the IOAPIC send a vector (82093AA, 3.2.4), and waits until
/// the local APIC has it (SDM volume 3A, 11.8.4). Interrupts stay off.
#[test]
fn ctrl_a_p_presses_the_power_button() {
    const VECTOR: u32 = 0x41;
    const IOAPIC: u32 = 0xfec0_0000;
    const APIC: u32 = 0xfee0_0000;
    if !kvm() {
        return;
    }
    let session = Session::start(
        |g| {
            g.store32(APIC + 0xf0, 0x1ff);
            for (register, value) in [(1, 0), (0, VECTOR)] {
                g.store32(IOAPIC, 0x10 + 2 * GSI_POWER_BUTTON + register);
                g.store32(IOAPIC + 0x10, value);
            }
            g.print("ready");
            let again = g.here();
            g.pause().load32(APIC + 0x200 + 0x10 * (VECTOR / 32));
            g.cmp_eax(1 << (VECTOR % 32)).jne(again);
            g.power_off();
        },
        &[],
    );
    session.is_raw();
    session.type_in("\x01p");
    session.screen.wait_for("the power button is pressed");
    session.ends_with(0);
}

/// Ctrl-C and Ctrl-Z are the guest's, Ctrl-A a sends a Ctrl-A, and nothing is echoed by the host.
#[test]
fn keys_are_the_guests() {
    if !kvm() {
        return;
    }
    let session = Session::start(
        |g| {
            g.print("ready");
            for _ in 0..4 {
                g.wait_key().print_eax();
            }
            g.power_off();
        },
        &[],
    );
    session.is_raw();
    session.type_in("\x03\x1a\x01ak");
    session.ends_with(0);
    let screen = session.screen.text();
    let expected = "ready00000003\r\n0000001a\r\n00000001\r\n0000006b\r\n";
    assert!(screen.starts_with(expected), "{screen:?}");
    eventually("the prompt", || session.screen.text().contains("status 0"));
}

/// An error before the guest runs leaves the terminal alone.
#[test]
fn untouched_by_an_error() {
    let session = Session::start(ready, &["--vfio", "nonsense"]);
    session.ends_with(1);
    assert!(session.screen.text().contains("hint: "));
}

/// The terminal belongs to another process group, which a PID namespace tells from ours although
/// ours has no number there (pid_namespaces(7)).
#[test]
fn untouched_while_another_group_has_it() {
    if !kvm() {
        return;
    }
    let namespace = Command::new("unshare")
        .args(["--pid", "--fork", "true"])
        .output();
    if !namespace.is_ok_and(|output| output.status.success()) {
        return skipped("no PID namespace can be made here");
    }
    let guest = |g: &mut Asm| {
        g.print("ready").power_off();
    };
    let session = Session::start_by(RUN_BEHIND_ANOTHER_GROUP, guest, &[]);
    session.ends_with(0);
    assert!(session.screen.text().contains("ready"));
}

/// Any text in NO_COLOR turns colours off (<https://no-color.org>).
#[test]
fn colour_on_a_terminal_that_wants_it() {
    let said = |no_color: &str| {
        let (ours, theirs) = sys::open_terminal();
        let screen = Heard::listen(File::from(ours));
        let mut command = Command::new(PROGRAM);
        command.args(["host", "check"]).stdout(theirs);
        command.env("TERM", "xterm").env("NO_COLOR", no_color);
        command.status().unwrap();
        screen.wait_for("huge-pages");
        screen.text()
    };
    assert!(said("").contains("\x1b[32mPASS\x1b[0m  "));
    assert!(!said("1").contains('\x1b'));
}
