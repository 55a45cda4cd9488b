//! QEMU as a VMM in L1.

use lab::machine::Machine;

/// QEMU with its firmware's directories, which are L0's.
const PROGRAM: &str = "qemu-system-x86_64 -L /usr/share/qemu -L /usr/share/seabios \
                       -machine q35,accel=kvm,usb=off,vmport=off -cpu host,arch-capabilities=off \
                       -nodefaults -no-user-config -display none -vga none -monitor none -m 256";

/// Room for QEMU in L1's initramfs.
pub fn add(l1: &mut Machine) {
    l1.memory = 2560;
}

/// The command that boots the guest's Linux with a device.
pub fn linux(device: &str) -> String {
    format!(
        "{PROGRAM} -serial stdio -kernel bzImage -initrd initrd \
         -append \"$cmdline console=ttyS0\" -device vfio-pci,host={device}"
    )
}

/// The command that runs code at the reset vector with a device at 00:03.0. The code ends QEMU by
/// port 0xf4.
pub fn tiny(firmware: &str, device: &str) -> String {
    format!(
        "{PROGRAM} -bios {firmware} -device isa-debug-exit,iobase=0xf4 \
         -device vfio-pci,host={device},addr=3"
    )
}
