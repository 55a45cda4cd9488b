# Acts of L2's /init for devices that come and go while the guest runs.

# Prints the addresses of the NVMe controllers that have a driver, but for those that the guest
# began with.
plugged() {
	for d in /sys/bus/pci/drivers/nvme/0000:*; do
		[ ! -e "$d" ] || basename "$d"
	done | grep -vxF "$began_with"
}

# await_plugged SECONDS: waits until as many controllers have a disk as functions come at once.
await_plugged() {
	for _ in $(seq $(($1 * 20))); do
		plugged= disks= count=0
		for controller in $(plugged); do
			disk=$(disks_of "$controller" | head -n 1)
			[ -n "$disk" ] || continue
			plugged=$plugged$controller, disks="$disks $disk" count=$((count + 1))
		done
		[ "$count" -lt "$functions" ] || return 0
		usleep 50000
	done
	fail "no disk has come"
	return 1
}

# Prints how often the kernel has heard an attention button.
presses() {
	dmesg | grep -ci 'button press'
}

# await_unplugged SECONDS: waits until no controller is left. In a hurry (lab.hurry), does not wait
# the five seconds of a button that was pressed: the slot's power is turned off by hand then, as a
# user of the guest may.
await_unplugged() {
	for _ in $(seq $(($1 * 20))); do
		[ -n "$(plugged)" ] || return 0
		if [ -n "$hurry" ] && [ "$(presses)" -gt "$heard" ]; then
			heard=$(presses)
			for slot in /sys/bus/pci/slots/*; do
				[ "$(cat "$slot/adapter")" = 0 ] || echo 0 >"$slot/power"
			done
		fi
		usleep 50000
	done
	fail "the disk stays"
	return 1
}

# keep_busy DISK: reads and copies without a pause, and ends when the disk has gone.
keep_busy() {
	while [ -b "$1" ] && copy_noise "$1"; do :; done
}

# use_plugged N: works the disks that have come, for the N-th time. With lab.busy, the disks are at
# work when they go.
use_plugged() {
	for disk in $disks; do
		name=$(basename "$disk" | sed 's/n1$/q/')
		serial=$(serial_of "$disk")
		work_disk "$disk" "$name" "$serial"
	done
	grep nvme /proc/interrupts | while read -r line; do say "irq $line"; done
	heard=$(presses)
	for disk in $disks; do
		[ -z "$busy" ] || keep_busy "$disk" 2>/dev/null &
	done
	[ "$1" != 1 ] || say_functions
	say "plugged n=$1 bdf=$plugged serial=$serial"
}

# Reports what the kernel has said since the beginning of the act that an orderly hot-plug does not
# say.
say_plug_troubles() {
	dmesg | tail -n "+$((said + 1))" | grep -E "Cannot|failed|No link|can.t assign" |
		while read -r line; do say "trouble $line"; done
}

# begin_plugs: remembers what a device that comes must not change for good.
begin_plugs() {
	hurry=$(word_of lab.hurry) busy=$(word_of lab.busy) functions=$(word_of lab.functions)
	functions=${functions:-1}
	began_with=none
	began_with=$(plugged)
	began_with=${began_with:-none}
	said=$(dmesg | wc -l)
	cat /proc/iomem >/run/iomem
	say "listening slots=$(ls /sys/bus/pci/slots | tr '\n' ',')"
}

# watch_plugs N: works each disk that comes, until N disks have come and gone and one more is there.
watch_plugs() {
	begin_plugs
	for plug in $(seq "$1"); do
		await_plugged 60 && use_plugged "$plug" && await_unplugged 90 || break
		wait
		# The disk goes before the kernel has given up the addresses of its function.
		for _ in $(seq 50); do
			! cmp -s /run/iomem /proc/iomem || break
			usleep 100000
		done
		if cmp -s /run/iomem /proc/iomem; then
			say "unplugged n=$plug iomem=same"
		else
			say "unplugged n=$plug iomem=other"
			diff /run/iomem /proc/iomem | while read -r line; do say "iomem $line"; done
		fi
	done
	await_plugged 60
	say_plug_troubles
	act=poweroff
}

# Waits for what L1 does, and does nothing.
stay_idle() {
	say "listening"
	sleep 600
}

# Works the disk that comes, and lets the kernel do nothing from then on: a loop of the highest
# priority has the only CPU, so that no thread of a driver runs.
starve() {
	begin_plugs
	await_plugged 60 && use_plugged 1
	echo -1 >/proc/sys/kernel/sched_rt_runtime_us
	say "starving"
	chrt -f 99 sh -c 'while :; do :; done'
}

# Turns a slot's power off whose button was pressed, as await_unplugged does in a hurry.
answer_presses() {
	[ "$(presses)" -gt "$heard" ] || return 0
	heard=$(presses)
	for slot in /sys/bus/pci/slots/*; do
		[ "$(cat "$slot/adapter")" = 0 ] || echo 0 >"$slot/power"
	done
}

# copy_and_count DISK: copies, compares the copy, and counts on the disk. The number is said once it
# is written.
copy_and_count() {
	copy_noise "$1" || return
	dd if="$1" of=/run/noise bs=65536 skip=16 count=16 iflag=direct 2>/dev/null || return
	dd if="$1" of=/run/copy bs=65536 skip=64 count=16 iflag=direct 2>/dev/null || return
	cmp -s /run/noise /run/copy || say "soak-lost $1: the copy is not the noise"
	round=$(text_at "$1" 3072)
	serial=$(serial_of "$1")
	[ -n "$round" ] && [ -n "$serial" ] || return
	put_text_at "$1" 3072 "round $((${round#round } + 1))" || return
	say "wrote $serial $((${round#round } + 1)) end"
}

# diskseq DISK: prints the number of a disk, which no other disk had before.
diskseq() {
	cat "/sys/block/${1#/dev/}/diskseq" 2>/dev/null || echo gone
}

# soak_disk DISK: works a disk. I/O may fail a moment before a disk goes, and else not.
soak_disk() {
	number=$(diskseq "$1")
	! copy_and_count "$1" || return 0
	for _ in $(seq 50); do
		[ "$(diskseq "$1")" = "$number" ] && [ "$number" != gone ] || return 0
		usleep 200000
	done
	say "soak-lost $1: I/O fails"
}

# Works all disks without a pause, those that come while the guest runs too, and sends pings, until
# L1 ends the guest.
soak() {
	heard=$(presses)
	if [ -e /sys/class/net/eth0 ]; then
		ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || fail "no eth0"
	fi
	say "soaking"
	count=0 shown=
	while :; do
		disks=$(ls /dev/nvme*n1 2>/dev/null | wc -l)
		for disk in /dev/nvme*n1; do
			[ ! -b "$disk" ] || soak_disk "$disk"
		done
		answer_presses
		if [ -e /sys/class/net/eth0 ]; then
			say "pinged $(ping -q -A -s 1400 -c 20 -w 2 10.0.2.2 | count_pings)"
		fi
		[ "$disks" = "$shown" ] || say "disks $disks"
		shown=$disks count=$((count + 1))
		say "soaked rounds=$count "
	done
}
