//! The power button, which Ctrl-A p presses: a guest that listens powers off in order, and a guest
//! without ACPI goes on.

use std::path::PathBuf;

use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{exit, expect, guest, no_trouble, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::Run;
use lab::{Result, debian};

/// Shell functions: mini-vmm gets a terminal, and `press` types Ctrl-A p there.
pub const TERMINAL: &str = "\
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mkfifo /run/keys
start_vmm() { start_as '' on-terminal /run/keys mini-vmm \"$@\"; }
press() { printf '\\001p' >/run/keys; }
";

/// The program that gives mini-vmm a terminal.
pub fn on_terminal() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_on-terminal"))
}

pub fn all() -> Vec<Scenario> {
    let press = "await 'L2: listening' 90\npress\n";
    vec![
        Scenario::new("a_power_button_ends_the_guest_that_listens")
            .machine(|l1| l1.programs = vec![on_terminal()])
            .disk(Disk::new("lab-disk", 5))
            .before(TERMINAL)
            .vmm(
                Vmm::new("-v --memory 512M")
                    .cmdline("lab.act=button")
                    .meanwhile(press),
            )
            .vmm(
                Vmm::new("-v --memory 512M --no-reboot")
                    .cmdline("acpi=off reboot=t lab.act=deaf")
                    .meanwhile(press)
                    .exits(3),
            )
            .each_run(|round, run| match round {
                0 => powered_off(run),
                _ => went_on(run),
            }),
        Scenario::new("a_power_button_shuts_debian_down_in_order")
            .machine(|l1| {
                l1.programs = vec![on_terminal()];
                l1.debian = Some((5, debian::GUEST));
            })
            .limit(420)
            .slow()
            .script(format!("{TERMINAL}{DEBIAN}"), shut_down),
    ]
}

/// Debian's systemd runs from the passed-through disk. After the run, L1 reads its journal, without
/// a repair of the file system.
const DEBIAN: &str = "\
bdf=0000:00:05.0
bind_vfio $bdf
start_vmm --kernel bzImage -v --memory 512M --vfio $bdf \\
\t--cmdline \"$cmdline root=/dev/nvme0n1 rw rootwait systemd.show_status=yes systemd.log_color=no\"
# The guest has no /init of the lab, for which the watch waits.
kill $watch_pid
await 'Reached target multi-user.target' 300
press
wait_vmm
echo >$sys/$bdf/driver_override
echo $bdf >$sys/$bdf/driver/unbind
echo $bdf >/sys/bus/pci/drivers_probe
disk=$(disk_of $bdf)
mkdir /mnt
mount -t ext4 -o ro,noload $disk /mnt
chroot /mnt journalctl --directory=/var/log/journal --no-pager -o cat >/run/journal
say \"journal-lines $(wc -l </run/journal)\"
grep -E 'Power|power' /run/journal | sed 's/^/LAB: journal /'
umount /mnt
";

fn shut_down(outcome: &Outcome) -> Result<()> {
    let run = run(outcome, 0)?;
    exit(&run, 0)?;
    said(&run)?;
    let console = run.output();
    let journal: Vec<_> = outcome.transcript.lab("journal").collect();
    for wanted in [
        "(Power Button)",
        "Power key pressed",
        "System is powering down",
    ] {
        expect(journal.iter().any(|line| line.contains(wanted)), || {
            format!("\"{wanted}\" is not in the journal, but: {journal:?}")
        })?;
    }
    expect(console.contains("poweroff.target"), || {
        "systemd did not reach its target of power-off".into()
    })?;
    debian::check_clean(&outcome.image("debian"))
}

fn said(run: &Run<'_>) -> Result<()> {
    let said = run
        .messages()
        .any(|line| line.contains("the power button is pressed"));
    expect(said, || {
        "mini-vmm did not say that it pressed the button".into()
    })
}

fn powered_off(run: &Run<'_>) -> Result<()> {
    said(run)?;
    let pressed = guest(run, "pressed")?;
    expect(pressed.contains("PNP0C0C"), || {
        format!("acpid heard another button: {pressed}")
    })?;
    // An edge, because a level would need a register that lowers it.
    let mut interrupts = run.guest("irq");
    expect(interrupts.any(|line| line.contains("20-edge")), || {
        "the event device has not the interrupt of its table".into()
    })
}

fn went_on(run: &Run<'_>) -> Result<()> {
    said(run)?;
    guest(run, "lives")?;
    no_trouble(run)
}
