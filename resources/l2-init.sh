#!/bin/sh
# /init of L2, the guest: says what it sees, works its NVMe disks, then ends as the command line asks.
# Words it knows: lab.act=poweroff|reboot|reboot-once|loop|measure, lab.reads=N, lab.buffered=MIB.

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
exec </dev/null >/dev/console 2>&1
# From here on the console is ours: the kernel's messages stay in dmesg.
dmesg -n 1

act=poweroff
reads=256
buffered=0
for word in $(cat /proc/cmdline); do
	case $word in
	lab.act=*) act=${word#*=} ;;
	lab.reads=*) reads=${word#*=} ;;
	lab.buffered=*) buffered=${word#*=} ;;
	esac
done

say() {
	echo "L2: $*"
}

# Interrupts of one controller so far, summed over vectors and CPUs.
interrupts() {
	awk -v name="$1" '$NF ~ "^" name "q[0-9]+$" { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts
}

# Page-cache pages in the zone above 4 GiB.
high_pages() {
	awk '$1 == "Node" { zone = $4 } zone == "Normal" && $1 ~ /^nr_zone_(in)?active_file$/ { n += $2 } END { print n + 0 }' /proc/zoneinfo
}

text_at() {
	dd if="$1" bs=4096 skip="$2" count=1 iflag=direct 2>/dev/null | tr -d '\000'
}

put_text_at() {
	printf '%s\n' "$3" | dd of="$1" bs=4096 seek="$2" count=1 conv=sync,notrunc oflag=direct 2>/dev/null
}

say "init $(uname -r) after $(cut -d' ' -f1 /proc/uptime) s"
say "cmdline $(cat /proc/cmdline)"
say "cpus $(nproc)"
say "memory $(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo) KiB"

for d in /sys/bus/pci/devices/*; do
	bdf=$(basename "$d")
	say "pci $bdf id=$(cat "$d/vendor"):$(cat "$d/device") class=$(cat "$d/class") driver=$(basename "$(readlink "$d/driver" || echo none)")"
	n=0
	while read -r start end flags && [ $n -lt 6 ]; do
		if [ "$flags" != 0x0000000000000000 ]; then
			say "bar $bdf $n $start-$end flags=$flags"
		fi
		n=$((n + 1))
	done <"$d/resource"
done

# Controllers are probed in the background: one is ready when its namespace is there.
for c in /sys/bus/pci/drivers/nvme/0000:*; do
	[ -e "$c" ] || continue
	for _ in $(seq 100); do
		ls "$c"/nvme/nvme*/nvme*n1 >/dev/null 2>&1 && break
		sleep 0.1
	done
done

disks=
for c in /sys/class/nvme/nvme*; do
	[ -e "$c" ] || continue
	name=$(basename "$c")
	serial=$(tr -d ' ' <"$c/serial")
	disk=/dev/${name}n1
	say "disk $name serial=$serial bdf=$(basename "$(readlink "$c/device")")"
	if [ ! -b "$disk" ]; then
		say "no-disk $name"
		continue
	fi
	disks="$disks $disk"
	say "text $serial $(text_at "$disk" 0)"
	say "boots $serial $(text_at "$disk" 3072)"

	before=$(interrupts "$name")
	dd if="$disk" of=/dev/null bs=4096 count="$reads" iflag=direct 2>/dev/null || say "read-failed $serial"
	say "interrupts $serial before=$before after=$(interrupts "$name") reads=$reads"

	# One MiB read and written by DMA alone: the lab compares both places in the image.
	dd if="$disk" of="$disk" bs=65536 skip=16 seek=64 count=16 iflag=direct oflag=direct conv=notrunc 2>/dev/null ||
		say "copy-failed $serial"
	put_text_at "$disk" 2048 "written by the guest to $serial" || say "write-failed $serial"
	say "reread $serial $(text_at "$disk" 2048)"

	if [ "$buffered" -gt 0 ]; then
		# The page cache of a disk goes when nobody has it open.
		exec 3<"$disk"
		before=$(high_pages)
		dd if="$disk" of="$disk" bs=1M skip=16 seek=$((16 + buffered)) count="$buffered" conv=notrunc,fsync 2>/dev/null ||
			say "buffered-failed $serial"
		say "high-pages $serial before=$before after=$(high_pages) of=$((2 * buffered * 256))"
		exec 3<&-
	fi
done
grep nvme /proc/interrupts | while read -r line; do say "irq $line"; done
dmesg | grep -iE 'nvme.*(timeout|abort|error|fail|completion polled)|DMAR|WARNING|BUG:' | while read -r line; do say "trouble $line"; done

case $act in
reboot-once)
	set -- $disks
	if [ "$(text_at "$1" 3072)" = "boot 1" ]; then
		act=poweroff
	else
		put_text_at "$1" 3072 "boot 1"
		act=reboot
	fi
	;;
loop)
	set -- $disks
	say looping
	while dd if="$1" of=/dev/null bs=4096 count=256 iflag=direct 2>/dev/null; do :; done
	say "loop-failed"
	;;
measure)
	# The marks are short: their own characters are exits that the measurement sees.
	set -- $disks
	sleep 1
	echo M1
	sleep 1
	for _ in $(seq 10); do
		dd if="$1" of=/dev/null bs=4096 count=2048 iflag=direct 2>/dev/null || say "read-failed"
	done
	echo M2
	sleep 1
	act=poweroff
	;;
esac

say "done $act"
case $act in
reboot) reboot -f ;;
*) poweroff -f ;;
esac
