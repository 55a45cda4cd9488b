# Shell functions of L2's /init; busybox sh. Facts are said as "L2: key value" lines.

sys=/sys/bus/pci/devices

say() {
	echo "L2: $*"
}

fail() {
	say "act-failed $*"
}

# interrupts NAME [CPU]: how many the lines of /proc/interrupts had so far whose name starts with
# NAME, on all CPUs or on one.
interrupts() {
	awk -v name="$1" -v cpu="${2:-all}" '
		NR == 1 { cpus = NF; next }
		index($NF, name) == 1 {
			for (i = 0; i < cpus; i++) if (cpu == "all" || cpu == i) n += $(i + 2)
		}
		END { print n + 0 }' /proc/interrupts
}

# Number of the first interrupt whose name starts with NAME.
irq_of() {
	awk -v name="$1" 'index($NF, name) == 1 { print $1 + 0; exit }' /proc/interrupts
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

# The first function with this "vendor:device".
function_of() {
	for d in "$sys"/*; do
		if [ "$(cat "$d/vendor"):$(cat "$d/device")" = "$1" ]; then
			basename "$d"
			return
		fi
	done
	fail "there is no function $1"
}

# bar_of BDF N: where a BAR starts.
bar_of() {
	sed -n "$(($2 + 1))s/ .*//p" "$sys/$1/resource"
}

driver_of() {
	basename "$(readlink "$sys/$1/driver" || echo none)"
}

say_functions() {
	for d in "$sys"/*; do
		bdf=$(basename "$d")
		say "pci $bdf id=$(cat "$d/vendor"):$(cat "$d/device") class=$(cat "$d/class") driver=$(driver_of "$bdf")"
		n=0
		while read -r start end flags && [ $n -lt 6 ]; do
			if [ "$flags" != 0x0000000000000000 ]; then
				say "bar $bdf $n $start-$end flags=$flags"
			fi
			n=$((n + 1))
		done <"$d/resource"
	done
}

# Block devices of a function, whatever lies between.
disks_of() {
	(cd -P "$sys/$1" && find . -name 'nvme*n1' -o -path '*/block/sd?') | while read -r path; do
		if [ -b "/dev/$(basename "$path")" ]; then
			echo "/dev/$(basename "$path")"
		fi
	done
}

# Controllers are probed in the background, and sticks are slow: one is ready when its disk is there.
# Prints "BDF DISK NAME" a disk; NAME is how its lines in /proc/interrupts start.
wait_for_disks() {
	for driver in nvme ahci xhci_hcd; do
		for d in "/sys/bus/pci/drivers/$driver"/0000:*; do
			[ -e "$d" ] || continue
			bdf=$(basename "$d")
			disk=
			for _ in $(seq 100); do
				disk=$(disks_of "$bdf" | head -n 1)
				[ -z "$disk" ] || break
				sleep 0.1
			done
			name=$driver
			case $driver in
			nvme) name=$(basename "$disk" | sed 's/n1$/q/') ;;
			ahci) name="ahci[$bdf]" ;;
			esac
			echo "$bdf ${disk:-none} $name"
		done
	done
}

# What stands first on a disk is its name.
serial_of() {
	text_at "$1" 0 | sed -n 's/^this is disk \([^,]*\),.*/\1/p'
}

copy_noise() {
	dd if="$1" of="$1" bs=65536 skip=16 seek=64 count=16 iflag=direct oflag=direct conv=notrunc 2>/dev/null
}

# work_disk DISK NAME SERIAL: reads it, copies by DMA alone, writes; the lab looks into the image.
work_disk() {
	say "text $3 $(text_at "$1" 0)"
	say "boots $3 $(text_at "$1" 3072)"

	before=$(interrupts "$2")
	dd if="$1" of=/dev/null bs=4096 count="$reads" iflag=direct 2>/dev/null || say "read-failed $3"
	say "interrupts $3 before=$before after=$(interrupts "$2") reads=$reads"

	# One MiB read and written by DMA alone: the lab compares both places in the image.
	copy_noise "$1" || say "copy-failed $3"
	put_text_at "$1" 2048 "written by the guest to $3" || say "write-failed $3"
	say "reread $3 $(text_at "$1" 2048)"

	if [ "$buffered" -gt 0 ]; then
		# The page cache of a disk goes when nobody has it open.
		exec 3<"$1"
		before=$(high_pages)
		dd if="$1" of="$1" bs=1M skip=16 seek=$((16 + buffered)) count="$buffered" conv=notrunc,fsync 2>/dev/null ||
			say "buffered-failed $3"
		say "high-pages $3 before=$before after=$(high_pages) of=$((2 * buffered * 256))"
		exec 3<&-
	fi
}

# What the guest's kernel should never have to say, told once.
complain() {
	dmesg | grep -v 'Falling back to' | grep -iE '(nvme|ata[0-9]|e1000e|xhci|usb).*(timeout|abort|error|fail|exception|hang|died|reset adapter|completion polled)|DMAR|WARNING|BUG:|nobody cared|soft lockup' |
		while read -r line; do say "trouble $line"; done
}

# virtual CONTROLLER RESOURCE ACTION NUMBER: Virtualization Management of the NVMe controller $node (NVM
# Express Base 2.0, 5.27): resources are queues (0) and vectors (1); actions are to set what the
# physical function keeps (1), to give to a virtual one (8), and to let that work (9).
virtual() {
	nvme-admin "$node" 0x1c $(($1 << 16 | $2 << 8 | $3)) "$4"
}
