# The L1 script of `make soak`; busybox sh, run with -e. It also has $soak_seconds, $soak_seed, and
# the addresses $first (a disk that each guest begins with), $second (a disk that comes and goes)
# and $card (a network card). Facts are lines of "LAB: soak ..." and, for what is lost, "LAB: lost".

socket=/run/api.sock
runs=0 confined=0 reboots=0 adds=0 removes=0 unbinds=0 kills=0 amid=0 ends=0
rounds=0 pings=0 lost=0
# KiB of its own that mini-vmm may have more than at the beginning of a run; the most that was seen.
may_grow=1024 most=0

# draw N: sets $drawn to a number below N. The generator is that of C's standard (7.22.2.2).
draw() {
	soak_seed=$(((soak_seed * 1103515245 + 12345) & 0x7fffffff))
	drawn=$(((soak_seed >> 16) % $1))
}

lose() {
	lost=$((lost + 1))
	say "lost $*"
}

ctl() {
	timeout 60 mini-vmm ctl $socket "$@" >/run/ctl.out 2>&1
}

# seconds: prints the seconds since the soak has begun.
seconds() {
	echo $((($(milliseconds) - soak_began) / 1000))
}

# said TEXT: prints how often the guest has said TEXT in this run.
said() {
	grep -cF "$1" /run/vmm.console || :
}

# await_said TEXT COUNT: waits until the guest has said TEXT more often than COUNT.
await_said() {
	for _ in $(seq 900); do
		[ "$(said "$1")" -le "$2" ] || return 0
		kill -0 $vmm_pid 2>/dev/null || return 1
		sleep 0.1
	done
	return 1
}

# counter NAME: prints a counter of mini-vmm.
counter() {
	mini-vmm ctl $socket counters --json | sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p"
}

# Prints what mini-vmm holds: descriptors, maps of devices, threads, memory slots.
holds() {
	echo "descriptors=$(ls /proc/$vmm_pid/fd | wc -l)" \
		"maps=$(grep -c vfio /proc/$vmm_pid/maps || :)" \
		"threads=$(ls /proc/$vmm_pid/task | wc -l)" \
		"slots=$(counter memory_slots)" \
		"pinned=$(pinned)"
}

# Prints how many pages are pinned. Each CPU counts for itself; a write to the file adds up.
pinned() {
	echo 1 >/proc/sys/vm/stat_refresh
	awk '
		$1 == "nr_foll_pin_acquired" { n += $2 }
		$1 == "nr_foll_pin_released" { n -= $2 }
		END { print n }' /proc/vmstat
}

# Prints the memory in KiB that belongs to mini-vmm alone, not to the guest, nor to a file.
own() {
	awk '$1 == "Anonymous:" { print $2 }' /proc/$vmm_pid/smaps_rollup 2>/dev/null || echo 0
}

# differ NOW BEFORE WHEN: says which numbers are not as before.
differ() {
	for pair in $1; do
		for old in $2; do
			[ "${old%=*}" = "${pair%=*}" ] && [ "$old" != "$pair" ] || continue
			lose "${pair%=*}: ${pair#*=} $3, ${old#*=} before"
		done
	done
}

# holds_as_before WHEN: fails if mini-vmm holds more than at the beginning of the run. Threads and
# descriptors of a change end a moment after its answer.
holds_as_before() {
	limit=$(($(milliseconds) + 5000))
	while [ "$(milliseconds)" -lt $limit ]; do
		now=$(holds)
		[ "$now" != "$held" ] || break
		kill -0 $vmm_pid 2>/dev/null || return 0
		sleep 0.1
	done
	differ "$now" "$held" "after $1 in run $runs"
	held=$now
	more=$(($(own) - own_first))
	[ $more -le $most ] || most=$more
	[ $more -le $may_grow ] || lose "memory of mini-vmm: $more KiB more after $1 in run $runs"
}

# sum_of DISK SKIP COUNT: prints a checksum of COUNT pieces of 64 KiB.
sum_of() {
	dd if="$1" bs=65536 skip="$2" count="$3" iflag=direct 2>/dev/null | md5sum | cut -d' ' -f1
}

# begin_disk BDF: writes the number that guests count on, and remembers what no guest writes.
begin_disk() {
	disk=$(disk_of "$1")
	echo 'round 0' | dd of="$disk" bs=4096 seek=3072 count=1 conv=sync,notrunc oflag=direct \
		2>/dev/null
	echo 0 >"/run/round.$1"
	never_written "$disk" >"/run/rest.$1"
}

# Guests write at 4 MiB (the copy) and at 12 MiB (the number).
never_written() {
	echo "$(sum_of "$1" 0 64) $(sum_of "$1" 80 112) $(sum_of "$1" 193 63)"
}

# disk_is_whole BDF: L1's own driver reads the disk. It has the copy of the noise, if a guest has
# made one, and the last number that a guest has written, or the next if the guest was ended before
# it could say so; all else is as it was at the beginning.
disk_is_whole() {
	if ! disk=$(disk_of "$1"); then
		lose "the disk of $1: L1's driver has none"
		return 0
	fi
	[ "$(never_written "$disk")" = "$(cat "/run/rest.$1")" ] ||
		lose "contents of $1: what no guest writes has changed"
	if [ -e "/run/worked.$1" ] && [ "$(sum_of "$disk" 16 16)" != "$(sum_of "$disk" 64 16)" ]; then
		lose "contents of $1: the copy is not the noise"
	fi
	serial=$(text_at "$disk" 0 | sed -n 's/^this is disk \([^,]*\),.*/\1/p')
	wrote=$(sed -n "s/^L2: wrote $serial \([0-9]*\) end$/\1/p" /run/vmm.console | tail -n 1)
	wrote=${wrote:-$(cat "/run/round.$1")}
	text=$(text_at "$disk" 3072)
	case $text in
	"round $wrote" | "round $((wrote + 1))") ;;
	*) lose "contents of $1: \"$text\", and a guest wrote \"round $wrote\"" ;;
	esac
	echo "${text#round }" >"/run/round.$1"
}

# begin: starts a guest with a disk, the card, and devices by an interface that is drawn.
begin() {
	draw 2
	interface=container
	[ $drawn = 0 ] || interface=iommufd
	draw 2
	mode=off
	[ $drawn = 0 ] || mode=on confined=$((confined + 1))
	rm -f $socket
	start_vmm $boot --memory 256M --ports 2 --iommu $interface --sandbox $mode \
		--api-socket $socket \
		--vfio "$first,managed=on" --vfio "$card,managed=on" \
		--cmdline "$cmdline lab.act=soak lab.disks=none lab.hurry=1"
	runs=$((runs + 1))
	if ! await_said 'L2: soaking' 0 || ! await_said 'L2: soaked' 0; then
		lose "run $runs: the guest did not begin"
		return 1
	fi
	: >"/run/worked.$first"
	held=$(holds) own_first=$(own)
	plugged= given_up=
}

# act: reboots the guest, adds or removes the disk, or takes the disk from the run.
act() {
	draw 4
	case $drawn in
	0)
		[ -z "$plugged" ] || remove
		before=$(said 'L2: soaked rounds=1 ')
		ctl reboot || lose "reboot: $(cat /run/ctl.out)"
		await_said 'L2: soaked rounds=1 ' "$before" || lose "reboot: the guest did not come back"
		reboots=$((reboots + 1))
		holds_as_before 'a reboot'
		;;
	1) if [ -n "$plugged" ]; then remove; else add; fi ;;
	2)
		[ -n "$plugged" ] || add
		remove
		;;
	3)
		[ -n "$plugged" ] || add
		unbind
		;;
	esac
}

add() {
	before=$(said 'L2: disks 2')
	if ! ctl add "$second,managed=on"; then
		lose "add: $(tr '\n' ' ' </run/ctl.out)"
		return 0
	fi
	adds=$((adds + 1)) plugged=yes
	await_said 'L2: disks 2' "$before" || lose "add: the guest has not used the disk"
	: >"/run/worked.$second"
}

remove() {
	draw 3
	force=
	[ $drawn != 0 ] || force=--force
	ctl remove "$second" $force || lose "remove: $(tr '\n' ' ' </run/ctl.out)"
	removes=$((removes + 1))
	gone
}

take() {
	echo "$second" >/sys/bus/pci/drivers/vfio-pci/unbind
}

# The host takes the disk from the run. The kernel waits for as long as the run has the disk.
unbind() {
	take &
	taking=$!
	for _ in $(seq 200); do
		kill -0 $taking 2>/dev/null || break
		sleep 0.1
	done
	unbinds=$((unbinds + 1))
	if kill -0 $taking 2>/dev/null; then
		lose "unbind: it has not ended in 20 s"
		holds_as_before 'an unbind'
		given_up=yes
		kill -9 $vmm_pid 2>/dev/null || :
	fi
	wait $taking || :
	gone
}

# The run has the disk no more, and its host's driver has it.
gone() {
	plugged=
	await_driver "$second" nvme || lose "host driver: $second has $(driver_of "$second")"
	holds_as_before "a removal"
}

# end: ends the run in one of five ways.
end() {
	draw 5
	wanted=0
	case $drawn in
	0)
		wanted=137
		kill -9 $vmm_pid || :
		kills=$((kills + 1))
		;;
	1)
		wanted=137
		kill_amid
		amid=$((amid + 1))
		;;
	2) kill -TERM $vmm_pid || : ;;
	3)
		ctl power-button || lose "power button: $(tr '\n' ' ' </run/ctl.out)"
		# A guest that does not listen goes on.
		for _ in $(seq 20); do
			kill -0 $vmm_pid 2>/dev/null || break
			sleep 0.1
		done
		kill -TERM $vmm_pid 2>/dev/null || :
		;;
	*) ctl shutdown || lose "shutdown: $(tr '\n' ' ' </run/ctl.out)" ;;
	esac
	wait_vmm
	[ $wanted != 0 ] || ends=$((ends + 1))
	[ $vmm_status = $wanted ] || lose "exit status: $vmm_status, not $wanted"
}

# kill_amid: kills mini-vmm at a moment of a reboot, an add, a removal, or an unbind by the host.
kill_amid() {
	draw 3
	case $drawn in
	0) ctl reboot & ;;
	1) if [ -n "$plugged" ]; then ctl remove "$second" & else ctl add "$second,managed=on" & fi ;;
	2)
		[ -n "$plugged" ] || add
		take 2>/dev/null &
		;;
	esac
	other=$!
	draw 40
	usleep $((drawn * 25000))
	kill -9 $vmm_pid || :
	wait $other || :
}

count_work() {
	rounds=$((rounds + $(said 'L2: soaked rounds=')))
	pings=$((pings + $(awk -F = '/^L2: pinged / { n += $3 } END { print n + 0 }' /run/vmm.console)))
	if grep -E '^L2: (soak-lost|act-failed)' /run/vmm.console >/run/bad; then
		lose "guest: $(head -n 1 /run/bad)"
	fi
}

# after: nothing of the run is left, once its helpers have ended.
after() {
	limit=$(($(milliseconds) + 15000))
	while [ "$(milliseconds)" -lt $limit ]; do
		drivers >/run/drivers.now
		left=$(left)
		if cmp -s /run/drivers /run/drivers.now && [ "$left" = "$nothing" ]; then
			break
		fi
		sleep 0.1
	done
	cmp -s /run/drivers /run/drivers.now ||
		lose "host driver: $(diff /run/drivers /run/drivers.now | tr '\n' ' ')"
	differ "$left" "$nothing" "after run $runs"
	nothing=$left
	disk_is_whole "$first"
	disk_is_whole "$second"
}

# Prints what is left of runs: pinned pages, open files of KVM and VFIO, records, processes.
left() {
	files='-> (/dev/(kvm|vfio|iommu)|anon_inode:.*(kvm|vfio))'
	echo "pinned=$(pinned)" \
		"open=$(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -cE -e "$files" || :)" \
		"records=$(find /run/mini-vmm -name '0*' -o -name 'under-way' 2>/dev/null | wc -l)" \
		"processes=$(cat /proc/[0-9]*/comm 2>/dev/null | grep -cE '^(vmm-|mini-vmm)' || :)"
}

# Prints the free memory in KiB, without what is only cached.
free_memory() {
	echo 3 >/proc/sys/vm/drop_caches
	awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo
}

# Prints the open files of all processes.
open_files() {
	cut -f1 /proc/sys/fs/file-nr
}

# Remembers what is free and open once the kernel gives no more back: it frees what a killed run had
# a moment after the run's end.
remember_first() {
	free_first=0 files_first=$(open_files)
	while [ "$(free_memory)" -gt $((free_first + 1024)) ]; do
		free_first=$(free_memory)
		sleep 0.5
	done
}

# memory_is_flat: fails unless as much is free, and no more is open, as after the first run.
memory_is_flat() {
	limit=$(($(milliseconds) + 15000))
	free=$(free_memory) files=$(open_files)
	until [ $((free + 16384)) -ge $free_first ] && [ "$files" -le $((files_first + 64)) ]; do
		if [ "$(milliseconds)" -ge $limit ]; then
			lose "memory: $free KiB free and $files files open," \
				"$free_first KiB and $files_first after the first run"
			return 0
		fi
		sleep 0.5
		free=$(free_memory) files=$(open_files)
	done
}

counters() {
	say "soak s=$(seconds) runs=$runs confined=$confined reboots=$reboots adds=$adds" \
		"removes=$removes unbinds=$unbinds kills=$kills amid=$amid ends=$ends rounds=$rounds" \
		"pings=$pings lost=$lost $nothing own=+$most" \
		"free=$(free_memory) files=$(open_files)"
}

soak() {
	drivers >/run/drivers
	nothing=$(left)
	begin_disk "$first"
	begin_disk "$second"
	minute=1
	while [ "$(seconds)" -lt "$soak_seconds" ]; do
		if begin; then
			draw 3
			for _ in $(seq $((drawn + 1))); do
				[ "$(seconds)" -lt "$soak_seconds" ] || break
				[ -z "$given_up" ] || break
				kill -0 $vmm_pid 2>/dev/null || lose "run $runs: mini-vmm has ended by itself"
				act
			done
		else
			given_up=yes
			kill -9 $vmm_pid 2>/dev/null || :
		fi
		if [ -z "$given_up" ]; then end; else wait_vmm; fi
		count_work
		after
		# The first run fills caches of the kernel.
		[ $runs != 1 ] || remember_first
		if [ "$(seconds)" -ge $((minute * 60)) ]; then
			counters
			minute=$(($(seconds) / 60 + 1))
		fi
	done
	memory_is_flat
	counters
	say "soak-done lost=$lost"
}

soak_began=$(milliseconds)
soak
