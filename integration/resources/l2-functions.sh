# Shell functions of L2's /init; busybox sh. Facts are lines of "L2: key value".

sys=/sys/bus/pci/devices

say() {
	echo "L2: $*"
}

# word_of NAME: prints the value of a word of the command line; nothing if there is no such word.
word_of() {
	tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"
}

# fail WHAT: reports an error, which fails the scenario.
fail() {
	say "act-failed $*"
}

# interrupts NAME [CPU]: prints how many interrupts came so far, on all CPUs or on one. NAME is the
# start of a name in /proc/interrupts.
interrupts() {
	awk -v name="$1" -v cpu="${2:-all}" '
		NR == 1 { cpus = NF; next }
		index($NF, name) == 1 {
			for (i = 0; i < cpus; i++) if (cpu == "all" || cpu == i) n += $(i + 2)
		}
		END { print n + 0 }' /proc/interrupts
}

# irq_of NAME: prints the number of the first interrupt whose name starts with NAME.
irq_of() {
	awk -v name="$1" 'index($NF, name) == 1 { print $1 + 0; exit }' /proc/interrupts
}

# Prints the number of page-cache pages above 4 GiB, which is Linux's zone "Normal".
high_pages() {
	awk '
		$1 == "Node" { zone = $4 }
		zone == "Normal" && $1 ~ /^nr_zone_(in)?active_file$/ { n += $2 }
		END { print n + 0 }' /proc/zoneinfo
}

# count_pings: reads the output of ping, and prints how many packets were sent and received.
count_pings() {
	sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) .*/sent=\1 received=\2/p'
}

# text_at DISK N: prints the text in a 4 KiB block of a disk, read without the page cache.
text_at() {
	dd if="$1" bs=4096 skip="$2" count=1 iflag=direct 2>/dev/null | tr -d '\000'
}

# put_text_at DISK N TEXT: writes a line of text to a 4 KiB block of a disk.
put_text_at() {
	printf '%s\n' "$3" |
		dd of="$1" bs=4096 seek="$2" count=1 conv=sync,notrunc oflag=direct 2>/dev/null
}

# function_of VENDOR:DEVICE: prints the address of the first function with these IDs.
function_of() {
	for d in "$sys"/*; do
		if [ "$(cat "$d/vendor"):$(cat "$d/device")" = "$1" ]; then
			basename "$d"
			return
		fi
	done
	fail "there is no function $1"
}

# bar_of BDF N: prints the address of a BAR.
bar_of() {
	sed -n "$(($2 + 1))s/ .*//p" "$sys/$1/resource"
}

# driver_of BDF: prints the function's driver, or "none".
driver_of() {
	basename "$(readlink "$sys/$1/driver" || echo none)"
}

# link_of BDF: prints speed and width of the function's link, now and at most.
link_of() {
	(cd "$sys/$1" && echo "$(cat current_link_speed) x$(cat current_link_width)" \
		"of $(cat max_link_speed) x$(cat max_link_width)")
}

# Reports all functions and their BARs, and the links of those of PCI Express.
say_functions() {
	for d in "$sys"/*; do
		bdf=$(basename "$d")
		if [ -e "$d/current_link_speed" ]; then
			say "link $bdf $(link_of "$bdf")"
			say "above $bdf $(basename "$(dirname "$(readlink -f "$d")")")"
		fi
		say "pci $bdf id=$(cat "$d/vendor"):$(cat "$d/device") class=$(cat "$d/class")" \
			"driver=$(driver_of "$bdf")"
		n=0
		while read -r start end flags && [ $n -lt 6 ]; do
			if [ "$flags" != 0x0000000000000000 ]; then
				say "bar $bdf $n $start-$end flags=$flags"
			fi
			n=$((n + 1))
		done <"$d/resource"
	done
}

# disks_of BDF: prints the block devices behind a function, such as those on its USB bus.
disks_of() {
	(cd -P "$sys/$1" && find . -name 'nvme*n1' -o -path '*/block/sd?') | while read -r path; do
		if [ -b "/dev/$(basename "$path")" ]; then
			echo "/dev/$(basename "$path")"
		fi
	done
}

# Waits until each controller has a disk: the kernel probes controllers in the background. Prints a
# line of "BDF DISK NAME" for each disk; names in /proc/interrupts start with NAME.
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
			# The pin has the name of the bus, "xhci-hcd:usb1".
			xhci_hcd) name=xhci ;;
			esac
			echo "$bdf ${disk:-none} $name"
		done
	done
}

# serial_of DISK: prints the name in the text at the start of a disk.
serial_of() {
	text_at "$1" 0 | sed -n 's/^this is disk \([^,]*\),.*/\1/p'
}

# copy_noise DISK: copies 1 MiB from offset 1 MiB to 4 MiB, by DMA alone.
copy_noise() {
	dd if="$1" of="$1" bs=65536 skip=16 seek=64 count=16 \
		iflag=direct oflag=direct conv=notrunc 2>/dev/null
}

# work_disk DISK NAME SERIAL: reads, copies and writes. The lab compares the disk's image
# afterwards.
work_disk() {
	say "text $3 $(text_at "$1" 0)"
	say "boots $3 $(text_at "$1" 3072)"

	before=$(interrupts "$2")
	dd if="$1" of=/dev/null bs=4096 count="$reads" iflag=direct 2>/dev/null || say "read-failed $3"
	say "interrupts $3 before=$before after=$(interrupts "$2") reads=$reads"

	copy_noise "$1" || say "copy-failed $3"
	put_text_at "$1" 2048 "written by the guest to $3" || say "write-failed $3"
	say "reread $3 $(text_at "$1" 2048)"

	if [ "$buffered" -gt 0 ]; then
		# The kernel drops the page cache of a disk that no process has open.
		exec 3<"$1"
		before=$(high_pages)
		dd if="$1" of="$1" bs=1M skip=16 seek=$((16 + buffered)) count="$buffered" \
			conv=notrunc,fsync 2>/dev/null || say "buffered-failed $3"
		say "high-pages $3 before=$before after=$(high_pages) of=$((2 * buffered * 256))"
		exec 3<&-
	fi
}

# Reports lines of dmesg that a healthy guest does not have; these fail the scenario.
complain() {
	devices='nvme|ata[0-9]|e1000e|igb|xhci|usb'
	errors='timeout|abort|error|fail|exception|hang|died|reset adapter|completion polled'
	others='DMAR|WARNING|BUG:|nobody cared|soft lockup'
	# Linux has numbers for 63 USB buses, and a guest may have more controllers.
	normal='Falling back to|failed to get bus number|xhci_hcd .* failed with error -7'
	dmesg | grep -vE "$normal" | grep -iE "($devices).*($errors)|$others" |
		while read -r line; do say "trouble $line"; done
}

# virtual CONTROLLER RESOURCE ACTION NUMBER: sends the Virtualization Management command to the
# NVMe controller $node (NVM Express Base 2.0, 5.27). Resources are queues (0) and vectors (1).
# Actions set what the physical function keeps (1), assign to a virtual function (8) and bring that
# online (9).
virtual() {
	nvme-admin "$node" 0x1c $(($1 << 16 | $2 << 8 | $3)) "$4"
}
