#!/bin/sh
# Installs, with apt, the packages that are missing on this machine.
#
#   install-deps.sh build   what building and the tests without QEMU need
#   install-deps.sh lab     the same, and what the lab needs (the default)
#   install-deps.sh fleet   what building and `make fleet` need
#   install-deps.sh intel   the same as lab, and what the lab on Intel's VMX needs
#
# Quick and silent when nothing is missing; otherwise it needs root or sudo.
set -eu

fail() {
	echo "error: $1" >&2
	echo "hint: $2" >&2
	exit 1
}

missing=
need() { # need PACKAGE COMMAND
	if ! command -v "$2" >/dev/null 2>&1 && [ ! -x "/usr/sbin/$2" ]; then
		missing="$missing $1"
	fi
}

build_needs() {
	need gcc cc
	# libFuzzer is C++.
	need g++ c++
	[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
}

# is_built NAME FILE...: whether the cache has the kernel NAME, built with the options of the files.
is_built() {
	copy=$kernels/$(cat "$kernels/$1" 2>/dev/null || :)/lab-kernel.config
	shift
	cat "$@" | cmp -s - "$copy"
}

lab_needs() {
	need qemu-system-x86 qemu-system-x86_64
	need xz-utils xz
	need zstd zstd
	need gzip gzip
	# A unit test reads the ACPI tables with iasl, and is skipped where iasl is not installed.
	need acpica-tools iasl
	# One guest is Debian with systemd.
	need mmdebstrap mmdebstrap
	need e2fsprogs mke2fs
	[ -e /usr/share/seabios/bios-256k.bin ] || [ -e /usr/share/qemu/bios-256k.bin ] ||
		missing="$missing seabios"
	# The lab's guests have no libraries, so busybox must be static.
	busybox=$(command -v busybox || :)
	if [ -z "$busybox" ] || LC_ALL=C ldd "$busybox" >/dev/null 2>&1; then
		missing="$missing busybox-static"
	fi

	# Two of the lab's kernels are built once. The cache keeps a copy of each one's configuration.
	resources=$(dirname "$0")/../integration/resources
	kernels=${XDG_CACHE_HOME:-${HOME:-}/.cache}/mini-vmm/kernels
	build=
	is_built lab "$resources/lab-kernel.config" "$resources/lab-kernel-release.config" || build=yes
	is_built lab-newest "$resources/lab-kernel.config" "$resources/lab-kernel-newest.config" ||
		build=yes
	if [ "$build" ]; then
		need make make
		need flex flex
		need bison bison
		need bc bc
		[ -e /usr/include/libelf.h ] || missing="$missing libelf-dev"
	fi
}

intel_needs() {
	need bochs bochs
	need xorriso xorriso
	set -- /usr/lib/*/bochs/plugins/libbx_term_gui.so
	[ -e "$1" ] || missing="$missing bochs-term"
	[ -e /usr/share/bochs/BIOS-bochs-latest ] || missing="$missing bochsbios"
	[ -e /usr/share/vgabios/vgabios.bin ] || missing="$missing vgabios"
	[ -e /usr/lib/ISOLINUX/isolinux.bin ] || missing="$missing isolinux"
	[ -e /usr/lib/syslinux/modules/bios/ldlinux.c32 ] || missing="$missing syslinux-common"
}

fleet_needs() {
	need udev udevadm
	need podman podman
	need runc runc
	need busybox-static busybox
	need slurm-wlm slurmctld
	need munge munged
	need lintian lintian
	need mmdebstrap mmdebstrap
}

[ "$(uname -m)" = x86_64 ] ||
	fail "this is a $(uname -m) machine, and mini-vmm and its lab are for x86-64" \
		"run it on an x86-64 machine"

case ${1:-lab} in
build) build_needs ;;
lab)
	build_needs
	lab_needs
	;;
fleet)
	build_needs
	fleet_needs
	;;
intel)
	build_needs
	lab_needs
	intel_needs
	;;
*) fail "install-deps.sh does not know '$1'" "install-deps.sh build, lab, fleet or intel" ;;
esac

if [ -n "$missing" ]; then
	command -v apt-get >/dev/null 2>&1 ||
		fail "these packages are missing, and there is no apt-get to install them:$missing" \
			"install them with your distribution's package manager, or use Debian 12 or newer"
	as_root=
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null 2>&1 ||
			fail "these packages are missing, and installing them needs root:$missing" \
				"run as root: apt-get install$missing"
		as_root=sudo
	fi
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	$as_root apt-get -q update ||
		echo "apt-get update failed; the package lists that are there are used" >&2
	# shellcheck disable=SC2086 # a list of package names
	$as_root apt-get -q -y --no-install-recommends -o Dpkg::Use-Pty=0 install $missing ||
		fail "apt-get could not install:$missing" \
			"see its message above; check the network and /etc/apt/sources.list"
fi

if ! command -v cargo >/dev/null 2>&1; then
	fail "there is no cargo on this machine's PATH" \
		"install Rust 1.88 or newer with rustup; Debian 12 and 13 package an older cargo"
fi
