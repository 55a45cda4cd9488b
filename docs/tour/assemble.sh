#!/bin/sh
# assemble.sh GUEST.s PROGRAM: assembles a guest for the machine in forty lines (PROGRAM.bin: bytes
# that are loaded at 0x1000), for mini-vmm (PROGRAM.elf: loaded at 1 MiB, entered by PVH), or for
# your own VMM (PROGRAM.img: the bytes of the same).
set -eu
mkdir -p "$(dirname "$2")"
object=${2%.*}.o
case $2 in
*.bin)
	as --32 -o "$object" "$1"
	ld -m elf_i386 -Ttext=0x1000 -e 0x1000 --oformat binary -o "$2" "$object"
	;;
*.elf | *.img)
	as --64 -I "$(dirname "$0")/guests" -o "$object" "$1"
	ld -m elf_x86_64 -Ttext=0x100000 -e 0x100000 -n -o "${2%.*}.elf" "$object"
	[ "${2##*.}" = elf ] || objcopy -O binary -j .text "${2%.*}.elf" "$2"
	;;
*)
	echo "error: $2 must end in .bin, .elf or .img" >&2
	exit 1
	;;
esac
