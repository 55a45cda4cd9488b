//! The paths of files in L1, and the commands that L1's script runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lab::disk::Disk;
use lab::inner_qemu::FIRMWARE;
use lab::machine::Machine;

use crate::subjects::bare_calls::Map;
use crate::subjects::mini_vmm::Abilities;
use crate::subjects::{Guest, Kind, Subject};

/// The lab's kernel.
pub fn kernel() -> &'static Path {
    Path::new("/boot/bzImage")
}

/// The guest's initramfs, with src/bin/probe as /init.
pub fn initrd() -> &'static Path {
    Path::new("/boot/initrd")
}

/// The path of the guest of `crate::tiny` that loops.
pub fn tiny() -> &'static Path {
    Path::new("/boot/tiny")
}

/// The path of the guest that halts, and so leaves the CPU to other threads.
pub fn halting() -> &'static Path {
    Path::new("/boot/halting")
}

/// The path of the guest that resets the machine of this VMM.
pub fn resetting(subject: &Subject) -> PathBuf {
    PathBuf::from(format!("/boot/reset-{:?}", subject.kind))
}

/// The path of a subject's program.
pub fn program(subject: &Subject) -> PathBuf {
    Path::new("/bin").join(subject.program.file_name().unwrap_or_default())
}

/// A path of L1 as the initramfs names it, without the slash at the start.
pub fn archived(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// L1 with two CPUs, so that a VMM's threads run beside its guest as on other machines. The lab's
/// scenarios have one CPU: QEMU's emulation of nested SVM is not reliable with two CPUs and busy
/// guests of several vCPUs. The bench's busy guests have one vCPU each. If L1 powers off early, the
/// bench keeps the figures that L1 has printed.
pub fn machine(disks: &[Disk]) -> Machine {
    Machine {
        cpus: 2,
        ..Machine::with_disks(disks)
    }
}

/// The command that starts a VMM with this guest.
pub fn command(subject: &Subject, guest: &Guest<'_>) -> String {
    line(subject, guest, Vec::new())
}

/// The same command with options that make the VMM count as much as it can.
pub fn counting(subject: &Subject, guest: &Guest<'_>, abilities: Abilities) -> String {
    line(subject, guest, subject.kind.counting(abilities))
}

fn line(subject: &Subject, guest: &Guest<'_>, more: Vec<OsString>) -> String {
    let mut words = subject.kind.arguments(guest, Path::new("/run/config"));
    if subject.kind == Kind::QemuQ35 {
        // QEMU looks for its firmware in a directory beside its program, but L1 has the firmware
        // elsewhere.
        words.extend(
            FIRMWARE
                .iter()
                .flat_map(|dir| ["-L", dir])
                .map(OsString::from),
        );
    }
    words.extend(subject.kind.watched());
    words.extend(more);
    shell_line(subject, words)
}

/// The command of the bare calls that map RAM.
pub fn map(bare_calls: &Subject, map: &Map<'_>) -> String {
    shell_line(bare_calls, map.arguments().into_words())
}

fn shell_line(subject: &Subject, words: Vec<OsString>) -> String {
    let mut line = program(subject).to_string_lossy().into_owned();
    for word in words {
        line.push(' ');
        line.push_str(&quote(&word.to_string_lossy()));
    }
    line
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole_in_a_shell() {
        assert_eq!(quote("a 'b'"), r"'a '\''b'\'''");
    }

    #[test]
    fn a_vmm_is_asked_for_what_it_counts_where_that_is_wanted() {
        let abilities = Abilities {
            stats: true,
            hugepages: true,
            idle: true,
            ports: false,
            sandbox: false,
        };
        let guest = Guest::new(Path::new("/k"));
        let ours = Subject::new("mini-vmm", Kind::MiniVmm, "/somewhere/mini-vmm");
        let plain = "/bin/mini-vmm '--kernel' '/k' '--cpus' '1' '--memory' '512M'";
        assert_eq!(command(&ours, &guest), plain);
        assert_eq!(
            counting(&ours, &guest, abilities),
            format!("{plain} '--stats=/run/probe.stats'")
        );
        let qemu = Subject::new("QEMU q35", Kind::QemuQ35, "/somewhere/qemu");
        let socket = "'unix:/run/probe.qmp,server=on,wait=off'";
        assert!(command(&qemu, &guest).ends_with(socket));
    }
}
