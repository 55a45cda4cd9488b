#!/usr/bin/env bash
# Makes a Debian package of built programs: deb.sh PROGRAMS MAN OUTPUT, three folders. The bytes of
# the package depend on the programs and on the source tree alone.
set -euo pipefail
# The order of lists.
export LC_ALL=C
programs=$(realpath "$1")
man=$(realpath "$2")
mkdir -p "$3"
output=$(realpath "$3")
cd "$(dirname "$0")/../.."

version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# The time of the last commit, so that two builds are alike.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
chmod 755 "$root"

for program in mini-vmm mini-vmm-trace; do
	install -D -m 755 "$programs/$program" "$root/usr/bin/$program"
	strip --remove-section=.comment --remove-section=.note "$root/usr/bin/$program"
done
for page in "$man"/*.1; do
	# The program is not in the package: it is a guest's /init too, so it must be static.
	[[ ${page##*/} != mini-vmm-bench* ]] || continue
	install -D -m 644 "$page" "$root/usr/share/man/man1/${page##*/}"
done
find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} +

shells() { # shells SHELL FILE
	mkdir -p "$root/usr/share/${2%/*}"
	"$programs/mini-vmm" completions "$1" >"$root/usr/share/$2"
}
shells bash bash-completion/completions/mini-vmm
shells zsh zsh/vendor-completions/_mini-vmm
shells fish fish/vendor_completions.d/mini-vmm.fish

install -D -m 644 resources/package/mini-vmm@.service \
	"$root/lib/systemd/system/mini-vmm@.service"
install -D -m 644 resources/package/60-mini-vmm.rules \
	"$root/lib/udev/rules.d/60-mini-vmm.rules"

doc=$root/usr/share/doc/mini-vmm
mkdir -p "$doc"
for page in config control fleet host install stats; do
	install -m 644 "docs/$page.md" "$doc"
done
date=$(date --utc --date="@$SOURCE_DATE_EPOCH" --rfc-email)
maintainer="The mini-vmm authors <authors@mini-vmm.dev>"
gzip -9n >"$doc/CHANGELOG.md.gz" <CHANGELOG.md
cat <<-EOF | gzip -9n >"$doc/changelog.gz"
	mini-vmm ($version) unstable; urgency=medium

	  * A package of the source tree; see CHANGELOG.md.gz.

	 -- $maintainer  $date
EOF
cat >"$doc/copyright" <<-EOF
	Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
	Upstream-Name: mini-vmm

	Files: *
	Copyright: The mini-vmm authors
	License: Apache-2.0 or BSD-3-Clause

	License: Apache-2.0
	 On Debian systems, the full text is in /usr/share/common-licenses/Apache-2.0.

	License: BSD-3-Clause
$(sed -e 's/^$/./' -e 's/^/ /' LICENSE-BSD-3-Clause)
EOF

# In KiB, without what the file system of this machine adds.
size=$(find "$root/usr" "$root/lib" -type f -printf '%s\n' |
	awk '{ n += int(($1 + 1023) / 1024) } END { print n }')
mkdir -p "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<-EOF
	Package: mini-vmm
	Version: $version
	Section: admin
	Priority: optional
	Architecture: amd64
	Depends: libc6 (>= 2.34), libgcc-s1
	Recommends: kmod, udev
	Suggests: initramfs-tools
	Maintainer: $maintainer
	Installed-Size: $size
	Description: minimal virtual machine monitor for PCI passthrough
	 mini-vmm boots a Linux guest under KVM and passes real PCI devices through to
	 the guest with VFIO. It checks the host, binds devices to vfio-pci and gives
	 them back, for one run or at each boot.
	 .
	 Installing the package starts no guest and binds no device.
EOF
(cd "$root" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz --build "$root" "$output/mini-vmm_${version}_amd64.deb" >&2
echo "$output/mini-vmm_${version}_amd64.deb"
