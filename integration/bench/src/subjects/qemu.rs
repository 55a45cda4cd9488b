//! QEMU (its manual, system emulation, "Invocation").

use super::arguments::Arguments;
use super::guest::Guest;

/// The general machine, QEMU's only machine on x86 with PCI as in real hardware.
pub const Q35: &str = "q35,accel=kvm,usb=off,vmport=off";
/// The small machine, without PCI.
pub const MICROVM: &str = "microvm,accel=kvm,isa-serial=on,auto-kernel-cmdline=off";

/// Some versions of KVM list the register IA32_ARCH_CAPABILITIES, which reports flaws of a CPU, but
/// refuse every value for it. QEMU exits then. The bench's guests do not read the register.
const CPU: &str = "host,arch-capabilities=off";

/// The arguments for this machine and this guest.
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

/// The arguments that let the bench watch QEMU: named threads, and a QMP socket.
pub fn watched(socket: &str) -> Arguments {
    let mut words = Arguments::default();
    words.text(&["-name", "bench,debug-threads=on"]);
    words.text(&["-qmp", &format!("unix:{socket},server=on,wait=off")]);
    words
}
