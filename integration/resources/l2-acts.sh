# Acts of L2's /init, one function for each lab.act. Most run after /init has worked its disks.
# An act sets `act` to poweroff or reboot at its end.

# count_boots N: counts boots on the disk, and reboots until there are N. /init does nothing else in
# this act, so that a boot is short.
count_boots() {
	wait_for_disks >/run/disks
	read -r _ disk name </run/disks
	boot=$(text_at "$disk" 3072)
	boot=$((${boot#boot } + 1))
	before=$(interrupts "$name")
	serial=$(serial_of "$disk")
	put_text_at "$disk" 3072 "boot $boot" || say "write-failed $serial"
	say "counted serial=$serial interrupts=$(($(interrupts "$name") - before)) boot=$boot"
	complain
	# L1 examines mini-vmm during these two boots.
	case $boot in
	2 | "$1") sleep 1 ;;
	esac
	if [ "$boot" -lt "$1" ]; then
		reboot -f
	fi
	say "done poweroff"
	poweroff -f
}

# Reboots if this is the first boot, which the disk remembers.
reboot_once() {
	set -- $disks
	if [ "$(text_at "$1" 3072)" = "boot 1" ]; then
		act=poweroff
	else
		put_text_at "$1" 3072 "boot 1"
		act=reboot
	fi
}

# work_all TIMES: sends pings, if there is a card. Boots so often; the disk counts.
work_all() {
	if [ -e /sys/class/net/eth0 ]; then
		ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || fail "no eth0"
		for _ in $(seq 100); do
			[ "$(cat /sys/class/net/eth0/carrier)" != 1 ] || break
			sleep 0.1
		done
		grep eth0 /proc/interrupts | while read -r line; do say "irq-of-card $line"; done
		before=$(interrupts eth0)
		say "ping $(ping -q -A -c 50 -s 1400 -w 30 10.0.2.2 | count_pings)"
		say "net-interrupts before=$before after=$(interrupts eth0)"
	fi
	set -- "$1" $disks
	boot=$(text_at "$2" 3072)
	boot=$((${boot#boot } + 1))
	put_text_at "$2" 3072 "boot $boot"
	act=reboot
	[ $((boot % $1)) != 0 ] || act=poweroff
}

# Reads until a read fails, and writes the same data again and again meanwhile.
use_for_ever() {
	set -- $disks
	say looping
	while copy_noise "$1"; do :; done &
	while dd if="$1" of=/dev/null bs=4096 count=256 iflag=direct 2>/dev/null; do :; done
	say "loop-failed"
}

# Reads and writes until the clock has jumped by 20 seconds, which is a pause, and for five seconds
# more. The detector of soft lockups looks every four seconds.
work_through_a_pause() {
	set -- $disks
	say looping
	last=$(cut -d. -f1 /proc/uptime)
	end=
	while [ -z "$end" ] || [ "$last" -lt "$end" ]; do
		copy_noise "$1" || say "copy-failed"
		now=$(cut -d. -f1 /proc/uptime)
		if [ $((now - last)) -ge 20 ]; then
			say "paused s=$((now - last))"
			end=$((now + 5))
		fi
		last=$now
	done
	watchdog=$(cat /proc/sys/kernel/soft_watchdog 2>/dev/null || echo 0)
	lines=$(dmesg | grep -ciE 'lockup|rcu.*(stall|starved)|hung task|clocksource.*unstable' || :)
	say "log watchdog=$watchdog lines=$lines"
	act=poweroff
}

# Reads between two marks. A mark is short, because each of its characters is an exit that counts.
measure_reads() {
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
}

# dd_on_cpu CPU ARGS: runs dd on one CPU.
dd_on_cpu() {
	mask=$(printf %x $((1 << $1)))
	shift
	taskset "$mask" dd "$@" 2>/dev/null
}

# read_on_cpu CPU DISK COUNT: reads on one CPU, and reports how many interrupts of that CPU's queue
# this CPU got, and how many interrupts of all queues all CPUs got.
read_on_cpu() {
	name=$(basename "$2" | sed 's/n1$/q/')
	queue=$name$(($1 + 1))
	here=$(interrupts "$queue" "$1")
	all=$(interrupts "$name")
	dd_on_cpu "$1" if="$2" of=/dev/null bs=4096 count="$3" iflag=direct ||
		say "read-failed cpu $1"
	here=$(($(interrupts "$queue" "$1") - here))
	all=$(($(interrupts "$name") - all))
	say "queue $queue cpu=$1 here=$here all=$all"
}

# Reads on each CPU, which has a queue and a vector of its own.
queue_on_each_cpu() {
	set -- $disks
	for cpu in $(seq 0 $(($(nproc) - 1))); do
		read_on_cpu "$cpu" "$1" 200
		# The kernel manages these vectors, and refuses to move them.
		if echo 1 >"/proc/irq/$(irq_of "$queue")/smp_affinity" 2>/dev/null; then
			say "moved-queue $queue"
		fi
	done

	for cpu in $(seq 0 $(($(nproc) - 1))); do
		queue=$name$((cpu + 1))
		here=$(interrupts "$queue" "$cpu")
		say "since-boot $queue cpu=$cpu here=$here all=$(interrupts "$queue")"
	done

	# The admin queue's vector may move. All CPUs read meanwhile.
	for cpu in $(seq 0 $(($(nproc) - 1))); do
		dd_on_cpu "$cpu" if="$1" of=/dev/null bs=4096 skip=256 count=2000 iflag=direct ||
			say "read-failed cpu $cpu"
	done &
	rescan=/sys/class/nvme/${name%q}/rescan_controller
	for round in 1 2 3; do
		for cpu in $(seq 0 $(($(nproc) - 1))); do
			move_and_poke "${name}0" "$cpu" "echo 1 >$rescan"
		done
	done
	wait
	act=poweroff
}

# move_and_poke NAME CPU COMMAND: moves an interrupt to a CPU, and repeats a command that causes the
# interrupt until that CPU has counted one.
move_and_poke() {
	echo "$(printf %x $((1 << $2)))" >"/proc/irq/$(irq_of "$1")/smp_affinity" ||
		fail "cannot move $1"
	before=$(interrupts "$1" "$2")
	for try in $(seq 40); do
		eval "$3"
		if [ "$(interrupts "$1" "$2")" -gt "$before" ]; then
			say "moved $1 cpu=$2 tries=$try"
			return
		fi
		usleep 50000
	done
	fail "no interrupt of $1 came to CPU $2"
}

# Moves one interrupt from CPU to CPU while dd reads the disk.
move_while_reading() {
	set -- $disks
	read -r _ _ name </run/disks
	irq=$(irq_of "$name")
	before=$(interrupts "$name")
	dd if="$1" of=/dev/null bs=4096 count=2000 iflag=direct 2>/dev/null || say "read-failed" &
	reader=$!
	moves=0
	while kill -0 "$reader" 2>/dev/null; do
		printf '%x\n' $((1 << (moves % $(nproc)))) >"/proc/irq/$irq/smp_affinity" ||
			fail "cannot move $name"
		moves=$((moves + 1))
		usleep 5000
	done
	wait
	say "churned moves=$moves reads=2000 interrupts=$(($(interrupts "$name") - before))"
	for cpu in $(seq 0 $(($(nproc) - 1))); do
		say "heard cpu=$cpu interrupts=$(interrupts "$name" "$cpu")"
	done
	act=poweroff
}

# Runs the workers of the plan, which read and write at random on all CPUs, and then checks the
# disk.
load_disk() {
	set -- $disks
	read -r _ _ name </run/disks
	last=$(($(echo "$load" | cut -d, -f3) - 1))
	before=$(interrupts "$name")
	for cpu in $(seq 0 $(($(nproc) - 1))); do
		taskset "$(printf %x $((1 << cpu)))" \
			guest load "$1" "$load" $(seq "$cpu" "$(nproc)" "$last") &
	done
	wait
	say "load interrupts=$(($(interrupts "$name") - before))"
	guest verify "$1" "$load" || fail "verify"
}

# Sends pings of full size, and receives a file whose content is known.
talk_to_the_network() {
	ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || fail "no eth0"
	for _ in $(seq 100); do
		[ "$(cat /sys/class/net/eth0/carrier)" != 1 ] || break
		sleep 0.1
	done
	say "carrier $(cat /sys/class/net/eth0/carrier)"
	grep eth0 /proc/interrupts | while read -r line; do say "irq $line"; done
	before=$(interrupts eth0)
	say "ping $(ping -q -A -c 200 -s 1400 -w 30 10.0.2.2 | count_pings)"
	say "net-interrupts before=$before after=$(interrupts eth0)"
	tftp -g -b 1400 -r numbers -l /tmp/numbers 10.0.2.2 || fail "the file did not come"
	if seq 40000 | cmp -s - /tmp/numbers; then
		say "file same bytes=$(wc -c </tmp/numbers)"
	else
		say "file other bytes=$(wc -c </tmp/numbers)"
	fi
	act=poweroff
}

# mask_of CPU: prints the mask of a CPU of any number, as taskset takes it.
mask_of() {
	printf '%x' $((1 << ($1 % 4)))
	n=$(($1 / 4))
	while [ $n -gt 0 ]; do
		printf 0
		n=$((n - 1))
	done
}

# move_to_last NAME LAST: moves all interrupts whose names start with NAME to the last CPU.
move_to_last() {
	for irq in $(awk -v name="$1" 'index($NF, name) == 1 { print $1 + 0 }' /proc/interrupts); do
		echo "$2" >"/proc/irq/$irq/smp_affinity_list" || fail "cannot move interrupt $irq of $1"
	done
}

# arrived NAME: prints how many interrupts came to the last CPU and to both CPUs that are online.
# /proc/interrupts has a column for each online CPU.
arrived() {
	echo "here=$(interrupts "$1" 1) all=$(interrupts "$1")"
}

# The kernel has brought up CPU 0 alone (maxcpus=1). Brings the last CPU online by hand. Sends pings
# with all interrupts of the card on that CPU, reads a disk there, and moves the serial port's
# interrupt there.
use_the_last_cpu() {
	cpus=/sys/devices/system/cpu
	last=$(sed 's/.*-//' $cpus/possible)
	say "before online=$(cat $cpus/online) possible=$(cat $cpus/possible)"
	echo 1 >"$cpus/cpu$last/online" || fail "CPU $last stays offline"
	id=$(awk -v cpu="$last" '
		$1 == "processor" { this = $3 }
		$1 == "apicid" && this == cpu { print $3 }' /proc/cpuinfo)
	say "last cpu=$last apic=$id online=$(cat $cpus/online)"
	[ -z "$disks" ] || for disk in $disks; do
		name=$(basename "$disk" | sed 's/n1$/q/')
		was=$(arrived "$name")
		taskset "$(mask_of "$last")" dd if="$disk" of=/dev/null bs=4096 count=1000 iflag=direct \
			2>/dev/null || fail "CPU $last cannot read $disk"
		say "last-reads before $was after $(arrived "$name")"
	done
	if [ -e /sys/class/net/eth0 ]; then
		ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || fail "no eth0"
		for _ in $(seq 100); do
			[ "$(cat /sys/class/net/eth0/carrier)" != 1 ] || break
			sleep 0.1
		done
		move_to_last eth0 "$last"
		grep eth0 /proc/interrupts | while read -r line; do say "irq $line"; done
		was=$(arrived eth0)
		say "last-ping $(ping -q -A -c 1000 -s 1400 -w 120 10.0.2.2 | count_pings)"
		say "last-pings before $was after $(arrived eth0)"
	fi
	move_to_last ttyS0 "$last"
	was=$(arrived ttyS0)
	# A handler that is still sending takes the next line along, without another interrupt.
	for n in $(seq 20); do
		say "line $n of the serial port"
		usleep 50000
	done
	say "last-serial before $was after $(arrived ttyS0)"
	act=poweroff
}

# share_memory RUN: reads what the host wrote to a BAR, and writes what the host will read.
share_memory() {
	bdf=$(function_of 0x1af4:0x1110)
	echo 1 >"$sys/$bdf/enable"
	bar=$(bar_of "$bdf" 2)
	for at in 0 4096 1048572; do
		say "shared $at $(devmem $((bar + at)) 32)"
		devmem $((bar + at)) 32 $((0x600d0000 + ($1 << 24) + at))
		say "shared-now $at $(devmem $((bar + at)) 32)"
	done
	act=poweroff
}

# Reports the expansion ROM of each display, and whether its frame buffer keeps what is written at
# its beginning, in its middle and at its end.
show_displays() {
	for d in "$sys"/*; do
		case $(cat "$d/class") in 0x03*) ;; *) continue ;; esac
		bdf=$(basename "$d")
		echo 1 >"$d/enable"
		if [ -e "$d/rom" ]; then
			began=$(cut -d' ' -f1 /proc/uptime)
			echo 1 >"$d/rom"
			cat "$d/rom" >/tmp/rom || fail "the ROM of $bdf cannot be read"
			say "rom-took $bdf from=$began to=$(cut -d' ' -f1 /proc/uptime)"
			# A ROM is read-only: enabled by its register, the ROM must ignore a write.
			write_byte "$d/config" 48 '\001'
			rom=$(bar_of "$bdf" 6)
			word=$(devmem $((rom)) 32)
			devmem $((rom)) 32 0x12345678
			say "rom-word $bdf before=$word after=$(devmem $((rom)) 32)"
			write_byte "$d/config" 48 '\000'
			echo 0 >"$d/rom"
			say "rom $bdf bytes=$(wc -c </tmp/rom) md5=$(md5sum </tmp/rom | cut -d' ' -f1)"
		else
			say "rom $bdf none"
		fi
		read -r start end flags <"$d/resource"
		size=$((end - start + 1))
		for at in 0 $((size / 2)) $((size - 4)); do
			devmem $((start + at)) 32 $((0xd1500000 + at / 4))
		done
		for at in 0 $((size / 2)) $((size - 4)); do
			if [ $(($(devmem $((start + at)) 32))) = $((0xd1500000 + at / 4)) ]; then
				say "pixel $bdf $at of=$size"
			fi
		done
	done
	act=poweroff
}

# Drives QEMU's teaching device by VFIO. The guest has no IOMMU, and its command line allows VFIO to
# work without (vfio.enable_unsafe_noiommu_mode=1).
drive_edu() {
	bdf=$(function_of 0x1234:0x11e8)
	echo vfio-pci >"$sys/$bdf/driver_override"
	echo "$bdf" >/sys/bus/pci/drivers_probe
	say "edu driver=$(driver_of "$bdf")"
	guest edu "$bdf" || fail "edu"
	act=poweroff
}

# capability_of BDF ID: prints the offset of a capability.
capability_of() {
	at=$(byte_at "$sys/$1/config" 52)
	while [ "$at" -ge 64 ] && [ "$(byte_at "$sys/$1/config" "$at")" != "$2" ]; do
		at=$(byte_at "$sys/$1/config" $((at + 1)))
	done
	[ "$at" -ge 64 ] || fail "$1 has no capability $2"
	echo "$at"
}

# edu_dma FROM TO COMMAND: QEMU's teaching device moves 16 bytes. One of the addresses is 0x40000,
# its own buffer. Commands are 1 (into the buffer) and 3 (out of it).
edu_dma() {
	devmem $((edu + 0x80)) 64 $(($1))
	devmem $((edu + 0x88)) 64 $(($2))
	devmem $((edu + 0x90)) 64 16
	devmem $((edu + 0x98)) 64 "$3"
	for _ in $(seq 100); do
		[ $(($(devmem $((edu + 0x98)) 32) & 1)) = 1 ] || return 0
		usleep 20000
	done
	fail "the DMA does not end"
}

# move_words WORDS FROM TO: writes four words at FROM, which the teaching device moves to TO.
move_words() {
	pattern=$((pattern + 0x10))
	for n in 0 1 2 3; do
		devmem $(($2 + 4 * n)) 32 $((pattern + n))
		devmem $(($3 + 4 * n)) 32 0
	done
	edu_dma "$2" 0x40000 1
	edu_dma 0x40000 "$3" 3
	same=0
	for n in 0 1 2 3; do
		[ $(($(devmem $(($3 + 4 * n)) 32))) != $((pattern + n)) ] || same=$((same + 1))
	done
	say "moved boot=$boot $1 words=$same"
}

# Moves bytes between the BARs of two devices by the DMA of a third: after a boot, after decoding
# was off, after D3, after a function-level reset with decoding on, and after the kernel's own
# reset. Boots twice; the memory remembers the first boot.
move_between_bars() {
	device=$(function_of 0x1b36:0x0010)
	for id in 0x1234:0x11e8 0x1af4:0x1110 0x1b36:0x0010; do
		echo 1 >"$sys/$(function_of "$id")/enable"
		write_byte "$sys/$(function_of "$id")/config" 4 '\006'
	done
	edu=$(bar_of "$(function_of 0x1234:0x11e8)" 0)
	memory=$(bar_of "$(function_of 0x1af4:0x1110)" 2)
	buffer=$(bar_of "$device" 2)
	registers=$sys/$device/config
	power=$(($(capability_of "$device" 1) + 4))
	express=$(capability_of "$device" 16)
	boot=$(($(devmem $((memory + 0x80000)) 32) + 1))
	pattern=$((0x600d0000 + (boot << 12)))
	for after in boot decode-off d3 flr reset; do
		case $after in
		decode-off)
			write_byte "$registers" 4 '\000'
			write_byte "$registers" 4 '\006'
			;;
		d3)
			write_byte "$registers" "$power" '\003'
			usleep 20000
			write_byte "$registers" "$power" '\000'
			usleep 20000
			;;
		flr)
			# Initiate Function Level Reset is bit 15 of Device Control.
			write_byte "$registers" $((express + 9)) '\200'
			usleep 100000
			;;
		reset)
			echo 1 >"$sys/$device/reset" || fail "$device has no reset"
			;;
		esac
		move_words "after=$after into-the-controller" "$memory" "$buffer"
		move_words "after=$after out-of-the-controller" "$buffer" "$memory"
	done
	act=poweroff
	[ "$boot" != 1 ] || act=reboot
	devmem $((memory + 0x80000)) 32 $((boot % 2))
}

# Pings, reads the card's IDs until the card is disconnected, and then checks that the guest itself
# still works.
lose_the_network() {
	bdf=$(function_of 0x8086:0x10d3)
	bar=$(bar_of "$bdf" 0)
	id() { hexdump -n 4 -e '"%08x"' "$sys/$bdf/config"; }
	ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || fail "no eth0"
	for _ in $(seq 100); do
		[ "$(cat /sys/class/net/eth0/carrier)" != 1 ] || break
		sleep 0.1
	done
	say "ping $(ping -q -A -c 20 -w 20 10.0.2.2 | count_pings)"
	say "watching id=$(id)"
	for _ in $(seq 600); do
		[ "$(id)" != ffffffff ] || break
		sleep 0.05
	done
	say "gone id=$(id)"
	echo "$bdf" >"$sys/$bdf/driver/unbind"
	say "unbound driver=$(driver_of "$bdf") register=$(devmem "$bar" 32)"
	sleep 1
	say "lives md5=$(seq 40000 | md5sum | cut -d' ' -f1)"
	act=poweroff
}

# Sends lines through the two serial ports of a card, which come back. Both ports use the card's
# pin.
talk_to_serial_ports() {
	bdf=$(function_of 0x4348:0x3253)
	say "card $bdf driver=$(driver_of "$bdf")"
	ports=$(cd -P "$sys/$bdf" && find . -path '*/tty/ttyS*' -prune | sed 's/.*\///' | sort)
	set -- $ports
	say "ports $*"
	[ $# = 2 ] || fail "the card has not two ports"
	exec 3<>"/dev/$1" 4<>"/dev/$2"
	stty -F "/dev/$1" raw -echo
	stty -F "/dev/$2" raw -echo
	# The ports share the interrupt, whose name is that of the port that was opened first.
	grep "$1" /proc/interrupts | while read -r line; do say "irq $line"; done
	name=$1
	mover=
	if [ "$act" = serial-moved ]; then
		move_for_ever "$(irq_of "$name")" &
		mover=$!
	fi
	# round PORT FD N: sends and receives one line of at most 15 bytes. When the card's buffer of 16
	# bytes is full, the card treats the buffer as empty.
	round() {
		text="line $3: $1"
		before=$(interrupts "$name")
		echo "$text" >&"$2"
		if [ "$(timeout 10 head -n 1 <&"$2")" = "$text" ]; then
			say "echoed $1 n=$3 interrupts=$(($(interrupts "$name") - before))"
		else
			fail "line $3 did not come back from $1"
		fi
	}
	for n in $(seq 20); do
		round "$1" 3 "$n"
		round "$2" 4 "$n"
	done
	for cpu in $(seq 0 $(($(nproc) - 1))); do
		say "heard cpu=$cpu interrupts=$(interrupts "$name" "$cpu")"
	done
	[ -z "$mover" ] || kill "$mover"
	exec 3<&- 4<&-
	act=poweroff
}

# Works on all CPUs at the same time: the AVX registers of twice as many threads as CPUs, and a
# checksum on each CPU.
work_cpus() {
	count=$(nproc)
	guest vectors $((2 * count))
	head -c 65536 /dev/urandom >/run/noise
	for cpu in $(seq 0 $((count - 1))); do
		taskset "$(printf %x $((1 << cpu)))" md5sum /run/noise >"/run/sum.$cpu" &
	done
	wait
	say "sums $(cat /run/sum.* | sort -u | wc -l) of=$(ls /run/sum.* | wc -l)"
	say "ticks $(awk '$1 == "LOC:" { for (i = 2; i <= 1 + '"$count"'; i++) printf " %s", $i }' \
		/proc/interrupts)"
	say "flags $(sed -n 's/^flags.*: //p' /proc/cpuinfo | head -n 1)"
	act=poweroff
}

# move_for_ever IRQ: moves an interrupt to the next CPU again and again.
move_for_ever() {
	moves=0
	while :; do
		printf '%x\n' $((1 << (moves % $(nproc)))) >"/proc/irq/$1/smp_affinity" ||
			fail "cannot move interrupt $1"
		moves=$((moves + 1))
		usleep 5000
	done
}

# byte_at FILE OFFSET: prints a byte of a file as a number.
byte_at() {
	hexdump -v -s "$2" -n 1 -e '1/1 "%u"' "$1"
}

# write_byte FILE OFFSET BYTE: writes a byte, as printf names it, to a file.
write_byte() {
	printf "$3" | dd of="$1" bs=1 seek="$2" count=1 conv=notrunc 2>/dev/null
}

# Reports MSI's Message Control of each function with that capability (PCI 3.0, 6.8.1.3): how many
# messages the function can send, and how many are enabled.
say_messages() {
	for d in "$sys"/*; do
		at=$(byte_at "$d/config" 52)
		for _ in $(seq 48); do
			[ "$at" -ge 64 ] || break
			if [ "$(byte_at "$d/config" "$at")" = 5 ]; then
				control=$(byte_at "$d/config" $((at + 2)))
				say "messages $(basename "$d") on=$((control & 1))" \
					"capable=$((1 << (control >> 1 & 7)))" \
					"used=$((1 << (control >> 4 & 7)))"
			fi
			at=$(byte_at "$d/config" $((at + 1)))
		done
	done
	act=poweroff
}

# Reports the topology of each CPU, and reads the disk on each CPU if there is a disk.
show_topology() {
	for cpu in $(seq 0 $(($(nproc) - 1))); do
		at=/sys/devices/system/cpu/cpu$cpu/topology
		apic=$(awk -v cpu="$cpu" '
			$1 == "processor" { n = $3 }
			$1 == "apicid" && n == cpu { print $3 }' /proc/cpuinfo)
		say "cpu $cpu apic=$apic socket=$(cat "$at/physical_package_id")" \
			"siblings=$(cat "$at/thread_siblings_list") core=$(cat "$at/core_cpus_list")" \
			"package=$(cat "$at/package_cpus_list")"
		[ -z "$disks" ] || read_on_cpu "$cpu" $disks 50
	done
	dmesg | grep -iE 'apic.*(mismatch|firmware bug)|firmware bug.*(apic|topo)' |
		while read -r line; do say "trouble $line"; done
	act=poweroff
}

# The guest has the physical function. It assigns queues and vectors to the virtual function, and
# brings that online as soon as L1 has created it.
serve_virtual_function() {
	read -r bdf _ </run/disks
	node=/dev/$(ls "$sys/$bdf/nvme")
	virtual 0 0 1 0 || fail "the queues are not free"
	virtual 0 1 1 0 || fail "the vectors are not free"
	echo 1 >"$sys/$bdf/reset" || fail "the physical function has no reset"
	virtual 1 1 8 2 || fail "the virtual function has no vectors"
	virtual 1 0 8 2 || fail "the virtual function has no queues"
	say "primary-ready"
	for _ in $(seq 600); do
		! virtual 1 0 9 0 2>/dev/null || break
		sleep 0.1
	done
	say "virtual-online"
	sleep 600
}

# Reports the clock that the kernel has chosen. The kernel changes to the time-stamp counter about a
# second after it has started to measure the counter.
show_clock() {
	sleep 1
	say "clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
	act=poweroff
}

# Reports the windows of each root port, as the port's registers and as the kernel have them, and
# what the kernel itself has given an address, or could not give one.
show_windows() {
	for d in "$sys"/*; do
		case $(cat "$d/class") in 0x0604*) ;; *) continue ;; esac
		at=$(basename "$d")
		say "port $at bus=$(cat "$d/secondary_bus_number")" \
			"last=$(cat "$d/subordinate_bus_number")" \
			"registers=$(hexdump -v -s 24 -n 28 -e '1/1 "%02x"' "$d/config")"
	done
	for slot in /sys/bus/pci/slots/*; do
		[ ! -e "$slot/address" ] || say "slot $(basename "$slot") address=$(cat "$slot/address")"
	done
	for service in /sys/bus/pci_express/devices/*:pcie?04; do
		[ ! -e "$service" ] || say "hot-plug $(basename "$service")" \
			"driver=$(basename "$(readlink "$service/driver" || echo none)")"
	done
	grep 'PCI Bus 0000:' /proc/iomem /proc/ioports | while IFS=: read -r file rest; do
		say "window $(basename "$file") $(echo $rest)"
	done
	dmesg | grep -oE '_OSC: OS now controls.*' | while read -r line; do say "osc $line"; done
	dmesg | grep -iE 'pci.*(: assigned|can.t (assign|claim)|failed to assign|no compatible)' |
		while read -r line; do say "changed $line"; done
	dmesg | grep -iE 'pci.*(no space|not big enough|conflict|releasing|invalid)' |
		while read -r line; do say "changed $line"; done
	act=poweroff
}

# Runs a process that keeps a page, until the process ends or three seconds have passed.
keep_page() {
	guest keep &
	keeper=$!
	for _ in $(seq 30); do
		sleep 0.1
		kill -0 $keeper 2>/dev/null || break
	done
	if kill -0 $keeper 2>/dev/null; then
		say "lives yes"
		kill $keeper
	else
		status=0
		wait $keeper || status=$?
		say "keeper status=$status"
		dmesg | grep -iE 'mce|machine check|memory failure' | tail -n 8 |
			while read -r line; do say "mce $line"; done
	fi
	say "end"
	act=poweroff
}

# Listens to the power button with acpid, which powers off at the first press.
await_button() {
	mkdir -p /etc/acpi/PWRF /etc/acpi/PWRB
	cat >/etc/acpi/PWRF/00000080 <<-'END'
		#!/bin/sh
		button=$(sed -n '/Power Button/,/Handlers/s/.*Phys=//p' /proc/bus/input/devices)
		echo "L2: pressed $button" >/dev/console
		echo "L2: done poweroff" >/dev/console
		poweroff -f
	END
	chmod 755 /etc/acpi/PWRF/00000080
	cp /etc/acpi/PWRF/00000080 /etc/acpi/PWRB
	grep 'ACPI:Ged' /proc/interrupts | while read -r line; do say "irq $line"; done
	acpid -d -l /dev/null -p /run/acpid.pid >/run/acpid.log 2>&1 &
	sleep 1
	say "listening"
	sleep 60
	fail "no press: $(tr '\n' ' ' </run/acpid.log)"
	act=poweroff
}

# Goes on while the power button is pressed, which a guest without ACPI does not hear.
be_deaf() {
	say "listening"
	sleep 4
	say "lives"
	act=reboot
}
