//! The hook of initramfs-tools(7).

/// The hook's path below /etc.
pub const HOOK: &str = "initramfs-tools/hooks/mini-vmm";

/// Copies the rules, and the drivers that they load, into each initramfs. The hook reads the rules
/// that there are when an initramfs is made, so that its text is the same for all devices.
pub const TEXT: &str = r#"#!/bin/sh
# Written by `mini-vmm host bind --persist`: puts the udev rules of devices that get a VFIO driver
# at each boot into the initramfs, where the host's drivers may be loaded first.
# `mini-vmm host unbind --persist` of the last such device removes it.
PREREQ="udev"
case ${1:-} in
prereqs)
	echo "$PREREQ"
	exit 0
	;;
esac
. /usr/share/initramfs-tools/hook-functions

for rule in /etc/udev/rules.d/05-mini-vmm-*.rules; do
	[ -e "$rule" ] || continue
	mkdir -p "$DESTDIR/etc/udev/rules.d"
	cp -p "$rule" "$DESTDIR/etc/udev/rules.d/"
	for module in $(sed -n 's/^RUN{builtin}+="kmod load \(.*\)"$/\1/p' "$rule"); do
		manual_add_modules "$module"
	done
done
"#;

/// The command that makes the initramfs of all installed kernels anew.
pub const UPDATE: [&str; 4] = ["update-initramfs", "-u", "-k", "all"];
