# Shell functions for a scenario's L1 script; busybox sh, run with -e.
# Each reports facts as lines of "LAB: key value".
#
# The script also has two variables: $boot, the options that name the guest's kernel and initramfs,
# and $cmdline, the start of the guest's kernel command line.

sys=/sys/bus/pci/devices

say() {
	echo "LAB: $*"
}

# driver_of BDF: prints the function's driver, or "none".
driver_of() {
	if [ -e "$sys/$1/driver" ]; then
		basename "$(readlink "$sys/$1/driver")"
	else
		echo none
	fi
}

# say_link BDF: reports speed and width of the function's link, now and at most.
say_link() {
	say "link $1 $(cd "$sys/$1" && echo "$(cat current_link_speed) x$(cat current_link_width)" \
		"of $(cat max_link_speed) x$(cat max_link_width)")"
}

# group_of BDF: prints the number of the function's IOMMU group, or "none".
group_of() {
	if [ -e "$sys/$1/iommu_group" ]; then
		basename "$(readlink "$sys/$1/iommu_group")"
	else
		echo none
	fi
}

# bind_vfio BDF: binds a function to vfio-pci by its own driver_override; no other function changes.
bind_vfio() {
	echo vfio-pci >"$sys/$1/driver_override"
	if [ -e "$sys/$1/driver" ]; then
		echo "$1" >"$sys/$1/driver/unbind"
	fi
	echo "$1" >/sys/bus/pci/drivers_probe
	say "bound $1 driver=$(driver_of "$1") group=$(group_of "$1")"
	[ "$(driver_of "$1")" = vfio-pci ]
}

# disk_of BDF: waits for the disk of an NVMe, SATA or USB controller and prints its block device.
disk_of() {
	for _ in $(seq 100); do
		for d in $(cd -P "$sys/$1" && find . -name 'nvme*n1' -o -path '*/block/sd?'); do
			if [ -b "/dev/$(basename "$d")" ]; then
				echo "/dev/$(basename "$d")"
				return 0
			fi
		done
		sleep 0.1
	done
	return 1
}

# say_rom KEY BDF: reports size and checksum of a function's expansion ROM, which /run/rom keeps.
say_rom() {
	echo 1 >"$sys/$2/enable"
	echo 1 >"$sys/$2/rom"
	cat "$sys/$2/rom" >/run/rom
	echo 0 >"$sys/$2/rom"
	echo 0 >"$sys/$2/enable"
	say "rom-at $2 $(sed -n '7s/ .*//p' "$sys/$2/resource")"
	say "$1 $2 bytes=$(wc -c </run/rom) md5=$(md5sum </run/rom | cut -d' ' -f1)"
}

# Prints the milliseconds since L1 was switched on, in steps of ten.
milliseconds() {
	read -r up _ </proc/uptime
	echo "${up%.*}${up#*.}0"
}

# text_at DISK N: prints the text in a 4 KiB block of a disk, read without the page cache.
text_at() {
	dd if="$1" bs=4096 skip="$2" count=1 iflag=direct 2>/dev/null | tr -d '\000'
}

# give_back BDF: binds a function to its own driver again, which then reads the disk.
give_back() {
	echo >"$sys/$1/driver_override"
	if [ -e "$sys/$1/driver" ]; then
		echo "$1" >"$sys/$1/driver/unbind"
	fi
	echo "$1" >/sys/bus/pci/drivers_probe
	say_back "$1"
}

# say_back BDF: reports the driver of a disk's controller, and what that driver reads.
say_back() {
	if disk=$(disk_of "$1"); then
		say "back $1 driver=$(driver_of "$1") text=$(text_at "$disk" 0)"
		say "guest-wrote $1 $(text_at "$disk" 2048)"
	else
		say "back $1 driver=$(driver_of "$1") no disk appeared"
	fi
}

# inject_error BDF BITS: lets a device report an uncorrectable error that did not happen. BITS are
# the four bytes of the status register, lowest first, as printf writes them. The argument is a
# `struct aer_error_inj` of drivers/pci/pcie/aer_inject.c: bus, device, function, padding, two
# status registers, a header log of four words, the domain.
inject_error() {
	where=$(echo "$1" | sed 's/.*:\(..\):\(..\)\.\(.\)/\\x\1\\x\2\\x0\3/')
	none='\x00\x00\x00\x00'
	printf "$where\\x00$2$none$none$none$none$none$none" >/dev/aer_inject
	say "injected $1"
}

# count_pings: reads the output of ping, and prints how many packets were sent and received.
count_pings() {
	sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) .*/sent=\1 received=\2/p'
}

# ping_from BDF: reports whether L1's own driver of a network card reaches the network.
ping_from() {
	net=$(ls "$sys/$1/net")
	ifconfig "$net" 10.0.2.15 netmask 255.255.255.0 up
	for _ in $(seq 100); do
		[ "$(cat /sys/class/net/$net/carrier)" != 1 ] || break
		sleep 0.1
	done
	say "pinged $1 driver=$(driver_of "$1") $(ping -q -A -c 20 -w 20 10.0.2.2 | count_pings)"
	ifconfig "$net" down
}

# start_vmm ARGS: starts mini-vmm in the background. Its standard output becomes lines of "L2| ",
# and its standard error becomes lines of "VMM| ".
start_vmm() {
	start_as '' mini-vmm "$@"
}

# start_as USER PROGRAM ARGS: starts any program as start_vmm does, and as USER if that is not
# empty.
start_as() {
	user=$1
	shift
	# The lab's own mode of the sandbox, for runs that have none.
	case "${sandbox:+lab} $* " in
	*' --sandbox '*) ;;
	lab*' --kernel '*) set -- "$@" --sandbox "$sandbox" ;;
	esac
	echo "LAB: run $*"
	rm -f /run/vmm.*
	mkfifo /run/vmm.out /run/vmm.err
	: >/run/vmm.console
	look=''
	if is_confined "$*"; then look='. /lab/functions.sh; say_confined'; fi
	awk -v kept=/run/vmm.console -v look="$look" '
		{ sub(/\r+$/, ""); print "L2| " $0; fflush(); print >kept; fflush(kept) }
		look && /^L2: (init|plugged|unplugged) / { system(look " " $2) }' </run/vmm.out &
	out_pid=$!
	awk -v kept=/run/vmm.messages \
		'{ print "VMM| " $0; fflush(); print >kept; fflush(kept) }' </run/vmm.err &
	err_pid=$!
	if [ -n "$user" ]; then
		su -s /bin/sh -c 'exec "$0" "$@"' "$user" -- "$@" </dev/null >/run/vmm.out 2>/run/vmm.err &
	else
		"$@" </dev/null >/run/vmm.out 2>/run/vmm.err &
	fi
	vmm_pid=$!
	watch_vmm $vmm_pid &
	watch_pid=$!
}

# is_confined COMMAND: whether this command line runs a guest of mini-vmm in the sandbox, as all do
# that name no other mode.
is_confined() {
	# In a container, the program has its path.
	case "${1#/bin/} " in
	'mini-vmm trace '* | *' --sandbox off '* | *' --sandbox log '*) return 1 ;;
	'mini-vmm '*'--kernel '* | 'mini-vmm '*'--config '*) ;;
	*) return 1 ;;
	esac
}

# say_confined WHEN: reports how many threads the processes that run confined guests have, and how
# many of them lack a filter, no_new_privs, or have a capability (proc_pid_status(5)).
say_confined() {
	for comm in /proc/[0-9]*/comm; do
		process=${comm%/comm}
		read -r name <$comm && [ "$name" = mini-vmm ] || continue
		if is_confined "$(tr '\0' ' ' <$process/cmdline)"; then cat $process/task/*/status || :; fi
	done 2>/dev/null | awk -v when="$1" '
		$1 == "Name:" { threads++ }
		$1 == "Seccomp:" && $2 == 2 { good++ }
		$1 == "NoNewPrivs:" && $2 == 1 { good++ }
		$1 == "CapEff:" && $2 ~ /^0+$/ { good++ }
		END { print "LAB: sandbox " when " threads=" (threads + 0) " lacks=" (3 * threads - good) }'
}

# watch_vmm PID: reports the threads of mini-vmm if the guest has not reached /init after a minute,
# and if mini-vmm has not ended a minute after the guest was done. A sleep may outlive this
# function. It must not keep L1's serial port open, whose last close waits until all has been sent.
watch_vmm() {
	sleep 60 >/dev/null 2>&1
	if [ -e /proc/$1 ] && ! grep -q 'L2: init' /run/vmm.console; then
		say_threads $1
	fi
	until grep -q 'L2: done poweroff' /run/vmm.console; do
		[ -e /proc/$1 ] || return 0
		sleep 5 >/dev/null 2>&1
	done
	sleep 60 >/dev/null 2>&1
	for _ in 1 2; do
		[ -e /proc/$1 ] || return 0
		say "late mini-vmm has not ended"
		say_threads $1
	done
}

# say_threads PID: reports what each of the threads of mini-vmm does, and lets mini-vmm print its
# counts of exits twice (SIGUSR1).
say_threads() {
	for thread in /proc/$1/task/*; do
		say "thread $(cat "$thread/comm"): $(cat "$thread/wchan")" \
			"syscall=$(cut -d' ' -f1 "$thread/syscall")" \
			"stack=$(sed 's/^[^ ]* //; s/+.*//' "$thread/stack" | tr '\n' ' ')" \
			"$(grep -E 'State|ctxt|SigQ|Pnd' "$thread/status" | tr -s '\n\t' ' ')"
	done
	for _ in 1 2; do
		kill -USR1 $1 || :
		sleep 2
	done
}

# Waits for the program that start_vmm started, and reports its exit status.
wait_vmm() {
	vmm_status=0
	wait $vmm_pid || vmm_status=$?
	kill $watch_pid 2>/dev/null || :
	wait $out_pid $err_pid || :
	say "exit $vmm_status"
}

# run_vmm ARGS: runs mini-vmm to its end.
run_vmm() {
	start_vmm "$@"
	wait_vmm
}

# run_as USER PROGRAM ARGS: runs a program to its end; see start_as.
run_as() {
	start_as "$@"
	wait_vmm
}

# await TEXT SECONDS: waits until TEXT is on the guest's console. Fails when the time is up, or when
# the VMM has ended without TEXT.
await() {
	for _ in $(seq $(($2 * 10))); do
		if grep -qF "$1" /run/vmm.console; then
			return 0
		fi
		if ! kill -0 $vmm_pid 2>/dev/null; then
			break
		fi
		sleep 0.1
	done
	if grep -qF "$1" /run/vmm.console; then
		return 0
	fi
	say "await-failed $1"
	return 1
}

# Prints how often mini-vmm has said that it wrote its statistics.
reports() {
	grep -c 'statistics are in' /run/vmm.messages 2>/dev/null || :
}

# report NAME: lets mini-vmm, which runs with --stats=/run/stats.json, write its statistics, and
# copies them to /run/stats.NAME.
report() {
	before=$(reports)
	kill -USR1 $vmm_pid
	for _ in $(seq 100); do
		if [ "$(reports)" -gt "${before:-0}" ]; then
			cp /run/stats.json "/run/stats.$1"
			return 0
		fi
		sleep 0.1
	done
	say "await-failed statistics"
	return 1
}

# say_reports NAME...: reports the statistics in /run/stats.NAME, each as one line.
say_reports() {
	for name in "$@"; do
		say "stats $name $(sed 's/^ *//' "/run/stats.$name" | tr -d '\n')"
	done
}

# held NAME: reports how many files, mappings and threads mini-vmm has, and its own memory in KiB.
# That is the memory that belongs to no file: neither the guest's RAM nor code. The kernel counts
# pages for `smaps_rollup` one by one; its counters in `status` lag behind by some pages on each
# CPU.
held() {
	say "held $1 fds=$(ls /proc/$vmm_pid/fd | wc -l) maps=$(wc -l </proc/$vmm_pid/maps)" \
		"threads=$(ls /proc/$vmm_pid/task | wc -l)" \
		"own=$(awk '$1 == "Anonymous:" { print $2 }' /proc/$vmm_pid/smaps_rollup)"
}

# in_use WHEN: reports how many pages are pinned for devices, and how many files of KVM, VFIO and
# iommufd are open.
in_use() {
	# Each CPU counts for itself; a write to this file adds up the counters.
	echo 1 >/proc/sys/vm/stat_refresh
	pinned=$(awk '
		$1 == "nr_foll_pin_acquired" { n += $2 }
		$1 == "nr_foll_pin_released" { n -= $2 }
		END { print n }' /proc/vmstat)
	files='-> (/dev/(kvm|vfio|iommu)|anon_inode:.*(kvm|vfio))'
	say "in-use $1 pinned=$pinned" \
		"open=$(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -cE -e "$files" || :)"
}

# copy_again BDF: L1's own driver copies data on the disk of a function, as guests do, and compares.
copy_again() {
	disk=$(disk_of "$1")
	dd if="$disk" of="$disk" bs=65536 skip=16 seek=64 count=16 \
		iflag=direct oflag=direct conv=notrunc 2>/dev/null
	dd if="$disk" of=/run/copied bs=65536 skip=16 count=16 iflag=direct 2>/dev/null
	if dd if="$disk" bs=65536 skip=64 count=16 iflag=direct 2>/dev/null | cmp -s - /run/copied; then
		say "copied same"
	else
		say "copied other"
	fi
}

# Prints what a run must not change: drivers, overrides, enable counts, device nodes.
snapshot() {
	for d in "$sys"/*; do
		bdf=$(basename "$d")
		echo "$bdf $(driver_of "$bdf") $(cat "$d/driver_override") $(cat "$d/enable")"
	done
	ls -ln /dev/kvm /dev/vfio 2>/dev/null || :
}

# host ARGS: runs `mini-vmm host` and reports its output and its exit status.
host() {
	say "host $*"
	host_status=0
	mini-vmm host "$@" >/run/host.out 2>/run/host.err || host_status=$?
	sed 's/^/LAB: host-out /' /run/host.out
	sed 's/^/LAB: host-err /' /run/host.err
	say "host-exit $host_status"
}

# Prints the driver and the override of each function, which `mini-vmm host bind` changes.
drivers() {
	for d in "$sys"/*; do
		bdf=$(basename "$d")
		echo "$bdf $(driver_of "$bdf") $(cat "$d/driver_override")"
	done
}

# state NAME: reports whether all drivers are as in /run/drivers, and counts mini-vmm's records.
state() {
	drivers >/run/drivers.now
	if cmp -s /run/drivers /run/drivers.now; then
		say "state $1 same records=$(find /run/mini-vmm -name '0*' 2>/dev/null | wc -l)"
	else
		say "state $1 differs $(diff /run/drivers /run/drivers.now | tr '\n' ' ')"
	fi
}

# child_of PID [NAME]: prints the children of a process, all or those of a name (proc_pid_stat(5);
# no program here has a space in its name).
child_of() {
	cat /proc/[0-9]*/stat 2>/dev/null | awk -v parent="$1" -v name="${2:+($2)}" '
		$4 == parent && (name == "" || $2 == name) { print $1 }'
}

# await_driver BDF DRIVER: waits up to ten seconds until a function has a driver.
await_driver() {
	for _ in $(seq 100); do
		[ "$(driver_of "$1")" = "$2" ] && return 0
		sleep 0.1
	done
	say "await-failed $1 has $(driver_of "$1"), not $2"
	return 1
}

# bad NAME USER PROGRAM ARGS: runs mini-vmm where it must refuse, and reports whether the host
# changed.
bad() {
	say "case $1"
	shift
	snapshot >/run/before
	run_as "$@"
	snapshot >/run/after
	if cmp -s /run/before /run/after; then
		say "unchanged yes"
	else
		say "unchanged no"
		diff /run/before /run/after || :
	fi
}

# make_mdev UUID TYPE: creates a mediated device of a type, such as mtty-2.
make_mdev() {
	for create in /sys/class/mdev_bus/*/mdev_supported_types/"$2"/create; do
		echo "$1" >"$create"
	done
	dir=/sys/bus/mdev/devices/$1
	say "mdev $1 group=$(basename "$(readlink "$dir/iommu_group")")" \
		"api=$(cat "$dir/mdev_type/device_api")"
}

# remove_mdev UUID: removes a mediated device; the kernel waits until no process has it open.
remove_mdev() {
	echo 1 >"/sys/bus/mdev/devices/$1/remove"
	if [ -e "/sys/bus/mdev/devices/$1" ]; then
		say "mdev-removed $1 no"
	else
		say "mdev-removed $1 yes"
	fi
}

# virtual CONTROLLER RESOURCE ACTION NUMBER: sends the Virtualization Management command to the
# NVMe controller $node (NVM Express Base 2.0, 5.27). Resources are queues (0) and vectors (1).
# Actions set what the physical function keeps (1), assign to a virtual function (8) and bring that
# online (9).
virtual() {
	nvme-admin "$node" 0x1c $(($1 << 16 | $2 << 8 | $3)) "$4"
}

# make_virtual BDF: creates one virtual function and brings it online. L1's own driver keeps the
# physical function.
make_virtual() {
	node=/dev/$(ls "$sys/$1/nvme")
	virtual 0 0 1 0
	virtual 0 1 1 0
	echo 1 >"$sys/$1/reset"
	echo 0 >"$sys/$1/sriov_drivers_autoprobe"
	echo 1 >"$sys/$1/sriov_numvfs"
	virtual 1 1 8 2
	virtual 1 0 8 2
	virtual 1 0 9 0
	new=$(basename "$(readlink "$sys/$1/virtfn0")")
	say "virtual $new of=$1 raw-id=$(hexdump -n 4 -e '"%08x"' "$sys/$new/config")"
}

# virtual_card BDF: brings a network card up, and creates one virtual function without a driver.
virtual_card() {
	net=$(ls "$sys/$1/net")
	ifconfig "$net" up
	echo 0 >"$sys/$1/sriov_drivers_autoprobe"
	echo 1 >"$sys/$1/sriov_numvfs"
	new=$(basename "$(readlink "$sys/$1/virtfn0")")
	say "virtual $new of=$1 raw-id=$(hexdump -n 4 -e '"%08x"' "$sys/$new/config")"
}

# kept_page: prints the guest-physical address of the page that the guest's process keeps.
kept_page() {
	sed -n 's/^L2: kept //p' /run/vmm.console
}

# poison PID ADDRESS: makes the page of mini-vmm PID at a guest-physical address below 3 GiB a page
# that L1 has lost. Guest RAM is the process's largest mapping. Its first 2 MiB, which have small
# pages, may be a mapping of their own before it.
poison() {
	start=$(sed 's/^\([^-]*\)-\([^ ]*\) .*/\1 \2/' "/proc/$1/maps" | {
		before_from=0 before_to=0 from=0 size=0
		while read -r first last; do
			first=$((0x$first)) last=$((0x$last))
			if [ $((last - first)) -gt $size ]; then
				size=$((last - first)) from=$first
				if [ $before_to = $first ] && [ $((before_to - before_from)) = 2097152 ]; then
					from=$before_from
				fi
			fi
			before_from=$first before_to=$last
		done
		echo $from
	})
	page=$(((start + $2) / 4096))
	set -- "$1" "$2" $(dd if="/proc/$1/pagemap" bs=8 skip=$page count=1 2>/dev/null |
		hexdump -v -e '2/4 "%u "')
	frame=$(($3 + (($4 & 0x7fffff) << 32)))
	say "poison $2 frame=$frame"
	echo $frame >/sys/kernel/debug/hwpoison/corrupt-pfn || say "poison-failed $2"
}
