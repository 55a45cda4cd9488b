# Shell functions that a scenario's L1 script uses; busybox sh, run with -e.
# Each reports what it did as "LAB: key value" lines.

sys=/sys/bus/pci/devices

say() {
	echo "LAB: $*"
}

# Name of the driver that holds a function, or "none".
driver_of() {
	if [ -e "$sys/$1/driver" ]; then
		basename "$(readlink "$sys/$1/driver")"
	else
		echo none
	fi
}

group_of() {
	if [ -e "$sys/$1/iommu_group" ]; then
		basename "$(readlink "$sys/$1/iommu_group")"
	else
		echo none
	fi
}

# Hands a function to vfio-pci, and to nothing else: only its own driver_override is set.
bind_vfio() {
	echo vfio-pci >"$sys/$1/driver_override"
	if [ -e "$sys/$1/driver" ]; then
		echo "$1" >"$sys/$1/driver/unbind"
	fi
	echo "$1" >/sys/bus/pci/drivers_probe
	say "bound $1 driver=$(driver_of "$1") group=$(group_of "$1")"
	[ "$(driver_of "$1")" = vfio-pci ]
}

# Waits for the disk of an NVMe, SATA or USB controller and prints its block device.
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

# say_rom KEY BDF: what a function's expansion ROM holds, which is left in /run/rom.
say_rom() {
	echo 1 >"$sys/$2/enable"
	echo 1 >"$sys/$2/rom"
	cat "$sys/$2/rom" >/run/rom
	echo 0 >"$sys/$2/rom"
	echo 0 >"$sys/$2/enable"
	say "rom-at $2 $(sed -n '7s/ .*//p' "$sys/$2/resource")"
	say "$1 $2 bytes=$(wc -c </run/rom) md5=$(md5sum </run/rom | cut -d' ' -f1)"
}

# Since L1 was switched on, in hundredths as thousandths.
milliseconds() {
	read -r up _ </proc/uptime
	echo "${up%.*}${up#*.}0"
}

# The text at a 4 KiB block of a disk, read past the page cache.
text_at() {
	dd if="$1" bs=4096 skip="$2" count=1 iflag=direct 2>/dev/null | tr -d '\000'
}

# Gives a function back to its host driver and reads the disk with it.
give_back() {
	echo >"$sys/$1/driver_override"
	if [ -e "$sys/$1/driver" ]; then
		echo "$1" >"$sys/$1/driver/unbind"
	fi
	echo "$1" >/sys/bus/pci/drivers_probe
	say_back "$1"
}

# What the host has of a disk that came back.
say_back() {
	if disk=$(disk_of "$1"); then
		say "back $1 driver=$(driver_of "$1") text=$(text_at "$disk" 0)"
		say "guest-wrote $1 $(text_at "$disk" 2048)"
	else
		say "back $1 driver=$(driver_of "$1") no disk appeared"
	fi
}

# Starts mini-vmm in the background. Its console comes out as "L2| " lines, its messages as "VMM| ".
start_vmm() {
	start_as '' mini-vmm "$@"
}

# start_as USER PROGRAM ARGS: as start_vmm, for any program and, if USER is not empty, without root.
start_as() {
	user=$1
	shift
	echo "LAB: run $*"
	rm -f /run/vmm.*
	mkfifo /run/vmm.out /run/vmm.err
	: >/run/vmm.console
	awk '{ sub(/\r+$/, ""); print "L2| " $0; fflush(); print >"/run/vmm.console"; fflush("/run/vmm.console") }' \
		</run/vmm.out &
	out_pid=$!
	awk '{ print "VMM| " $0; fflush(); print >"/run/vmm.messages"; fflush("/run/vmm.messages") }' </run/vmm.err &
	err_pid=$!
	if [ -n "$user" ]; then
		su -s /bin/sh -c 'exec "$0" "$@"' "$user" -- "$@" </dev/null >/run/vmm.out 2>/run/vmm.err &
	else
		"$@" </dev/null >/run/vmm.out 2>/run/vmm.err &
	fi
	vmm_pid=$!
}

# Waits for the program that start_vmm started; its exit status is said and kept in vmm_status.
wait_vmm() {
	vmm_status=0
	wait $vmm_pid || vmm_status=$?
	wait $out_pid $err_pid || :
	say "exit $vmm_status"
}

run_vmm() {
	start_vmm "$@"
	wait_vmm
}

run_as() {
	start_as "$@"
	wait_vmm
}

# await TEXT SECONDS: until the guest's console has said TEXT; fails when time is up or the VMM has ended.
await() {
	for _ in $(seq $(($2 * 20))); do
		if grep -qF "$1" /run/vmm.console; then
			return 0
		fi
		if ! kill -0 $vmm_pid 2>/dev/null; then
			break
		fi
		sleep 0.05
	done
	if grep -qF "$1" /run/vmm.console; then
		return 0
	fi
	say "await-failed $1"
	return 1
}

# held NAME: what the running VMM holds.
held() {
	say "held $1 fds=$(ls /proc/$vmm_pid/fd | wc -l) maps=$(wc -l </proc/$vmm_pid/maps)" \
		"threads=$(ls /proc/$vmm_pid/task | wc -l) rss=$(awk '$1 == "VmRSS:" { print $2 }' /proc/$vmm_pid/status)"
}

# All that a run must leave as it found it: drivers, overrides, enabled bits, device nodes.
snapshot() {
	for d in "$sys"/*; do
		bdf=$(basename "$d")
		echo "$bdf $(driver_of "$bdf") $(cat "$d/driver_override") $(cat "$d/enable")"
	done
	ls -ln /dev/kvm /dev/vfio 2>/dev/null || :
}

# host ARGS: a command for the host's side; what it says and its exit status.
host() {
	say "host $*"
	host_status=0
	mini-vmm host "$@" >/run/host.out 2>/run/host.err || host_status=$?
	sed 's/^/LAB: host-out /' /run/host.out
	sed 's/^/LAB: host-err /' /run/host.err
	say "host-exit $host_status"
}

# All that binding changes of devices, for a comparison.
drivers() {
	for d in "$sys"/*; do
		bdf=$(basename "$d")
		echo "$bdf $(driver_of "$bdf") $(cat "$d/driver_override")"
	done
}

# state NAME: whether all drivers are as /run/drivers says, and what is on record.
state() {
	drivers >/run/drivers.now
	if cmp -s /run/drivers /run/drivers.now; then
		say "state $1 same records=$(find /run/mini-vmm -name '0*' 2>/dev/null | wc -l)"
	else
		say "state $1 differs $(diff /run/drivers /run/drivers.now | tr '\n' ' ')"
	fi
}

# The process whose parent is another (proc_pid_stat(5): no name here has a space in it).
child_of() {
	cat /proc/[0-9]*/stat 2>/dev/null | awk -v parent="$1" '$4 == parent { print $1 }'
}

# await_driver BDF DRIVER: until a driver has a device, ten seconds at most.
await_driver() {
	for _ in $(seq 100); do
		[ "$(driver_of "$1")" = "$2" ] && return 0
		sleep 0.1
	done
	say "await-failed $1 has $(driver_of "$1"), not $2"
	return 1
}

# bad NAME USER PROGRAM ARGS: a run that must be refused; also says whether the host was left unchanged.
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

# make_mdev UUID TYPE: makes a mediated device of a type, such as mtty-2.
make_mdev() {
	for create in /sys/class/mdev_bus/*/mdev_supported_types/"$2"/create; do
		echo "$1" >"$create"
	done
	dir=/sys/bus/mdev/devices/$1
	say "mdev $1 group=$(basename "$(readlink "$dir/iommu_group")") api=$(cat "$dir/mdev_type/device_api")"
}

# Takes it away again, which waits for as long as anybody has it open.
remove_mdev() {
	echo 1 >"/sys/bus/mdev/devices/$1/remove"
	if [ -e "/sys/bus/mdev/devices/$1" ]; then
		say "mdev-removed $1 no"
	else
		say "mdev-removed $1 yes"
	fi
}
