//! What is where in L1, and what is typed there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lab::disk::Disk;
use lab::machine::Machine;

use crate::subjects::bare_calls::Map;
use crate::subjects::mini_vmm::Abilities;
use crate::subjects::{Guest, Kind, Subject};

/// The directories where QEMU's packages keep its firmware, the same as on this machine.
pub const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// The lab's kernel.
pub fn kernel() -> &'static Path {
    Path::new("/boot/bzImage")
}

/// The guest's initramfs, with src/bin/probe as /init.
pub fn initrd() -> &'static Path {
    Path::new("/boot/initrd")
}

/// A guest of `crate::tiny`.
pub fn tiny() -> &'static Path {
    Path::new("/boot/tiny")
}

/// A guest that leaves its CPU to others.
pub fn halting() -> &'static Path {
    Path::new("/boot/halting")
}

/// The guest that resets this VMM's machine.
pub fn resetting(subject: &Subject) -> PathBuf {
    PathBuf::from(format!("/boot/reset-{:?}", subject.kind))
}

/// A subject's program.
pub fn program(subject: &Subject) -> PathBuf {
    Path::new("/bin").join(subject.program.file_name().unwrap_or_default())
}

/// A path of L1 as its initramfs has it, without the slash at the start.
pub fn archived(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// L1 with two CPUs, so that a VMM's threads run beside its guest as they do on other machines. The
/// lab's scenarios have one CPU, because QEMU's emulation of nested SVM is not sound with two CPUs
/// and busy guests of several vCPUs. The guests here have one vCPU each where they are busy, and of
/// a machine that goes off early the figures up to then are kept.
pub fn machine(disks: &[Disk]) -> Machine {
    Machine {
        cpus: 2,
        ..Machine::with_disks(disks)
    }
}

/// What is typed for a guest.
pub fn command(subject: &Subject, guest: &Guest<'_>) -> String {
    line(subject, guest, Vec::new())
}

/// The same command for a VMM that is asked for all that it counts.
pub fn counting(subject: &Subject, guest: &Guest<'_>, abilities: Abilities) -> String {
    line(subject, guest, subject.kind.counting(abilities))
}

fn line(subject: &Subject, guest: &Guest<'_>, more: Vec<OsString>) -> String {
    let mut words = subject.kind.arguments(guest, Path::new("/run/config"));
    if subject.kind == Kind::QemuQ35 {
        // QEMU looks for its firmware beside its program, and that is elsewhere in L1.
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

/// What is typed for the bare calls that map RAM.
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
