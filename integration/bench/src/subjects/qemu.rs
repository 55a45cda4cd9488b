//! QEMU (its manual, system emulation, "Invocation").

use super::arguments::Arguments;
use super::guest::Guest;

/// The general machine, the only one with PCI as real hardware has it.
pub const Q35: &str = "q35,accel=kvm,usb=off,vmport=off";
/// The small machine, without PCI.
pub const MICROVM: &str = "microvm,accel=kvm,isa-serial=on,auto-kernel-cmdline=off";

/// Some KVMs list the register that tells of a CPU's flaws (IA32_ARCH_CAPABILITIES) but refuse
/// every value for it, and QEMU then ends. No guest here reads it.
const CPU: &str = "host,arch-capabilities=off";

/// What follows the program's name.
pub fn arguments(machine: &str, guest: &Guest<'_>) -> Arguments {
    let mut words = Arguments::default();
    words.text(&["-machine", machine, "-cpu", CPU]);
    words.text(&["-nodefaults", "-no-user-config", "-display", "none"]);
    words.text(&["-vga", "none", "-serial", "stdio", "-monitor", "none"]);
    words.text(&["-smp", &guest.cpus.to_string()]);
    words.text(&["-m", &guest.mib.to_string()]);
    words.path("-kernel", guest.kernel);
    words.optional("-initrd", guest.initrd);
    words.cmdline("-append", guest.cmdline);
    for bdf in guest.devices {
        words.text(&["-device", &format!("vfio-pci,host={bdf}")]);
    }
    words
}

/// What lets QEMU be watched: threads with names, and its machine protocol at a socket.
pub fn watched(socket: &str) -> Arguments {
    let mut words = Arguments::default();
    words.text(&["-name", "bench,debug-threads=on"]);
    words.text(&["-qmp", &format!("unix:{socket},server=on,wait=off")]);
    words
}
