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

# inject_error BDF BITS: the device reports an uncorrectable error that it does not have; BITS are the
# four bytes of its status register, lowest first, as printf writes them. `struct aer_error_inj` of
# drivers/pci/pcie/aer_inject.c: bus, device, function, a byte of nothing, two status registers, a
# header of four words, the domain.
inject_error() {
	where=$(echo "$1" | sed 's/.*:\(..\):\(..\)\.\(.\)/\\x\1\\x\2\\x0\3/')
	none='\x00\x00\x00\x00'
	printf "$where\\x00$2$none$none$none$none$none$none" >/dev/aer_inject
	say "injected $1"
}

# ping_from BDF: whether the host's own driver of a network card reaches the network.
ping_from() {
	net=$(ls "$sys/$1/net")
	ifconfig "$net" 10.0.2.15 netmask 255.255.255.0 up
	for _ in $(seq 100); do
		[ "$(cat /sys/class/net/$net/carrier)" != 1 ] || break
		sleep 0.1
	done
	say "pinged $1 driver=$(driver_of "$1") $(ping -q -A -c 20 -w 20 10.0.2.2 | sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) .*/sent=\1 received=\2/p')"
	ifconfig "$net" down
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
	watch_vmm $vmm_pid &
	watch_pid=$!
}

# Says where a VMM's threads stand whose guest has not reached its /init after a minute: in which
# system call, and what the guest leaves KVM for (SIGUSR1, twice).
watch_vmm() {
	sleep 60
	if [ ! -e /proc/$1 ] || grep -q 'L2: init' /run/vmm.console; then
		return
	fi
	for thread in /proc/$1/task/*; do
		say "standing $(cat "$thread/comm"): $(cat "$thread/wchan") syscall=$(cut -d' ' -f1 "$thread/syscall")" \
			"stack=$(sed 's/^[^ ]* //; s/+.*//' "$thread/stack" | tr '\n' ' ') $(grep ctxt "$thread/status" | tr -s '\n\t' ' ')"
	done
	for _ in 1 2; do
		kill -USR1 $1 || :
		sleep 2
	done
}

# Waits for the program that start_vmm started; its exit status is said and kept in vmm_status.
wait_vmm() {
	vmm_status=0
	wait $vmm_pid || vmm_status=$?
	kill $watch_pid 2>/dev/null || :
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

# report NAME: has the VMM, which runs with --stats=/run/stats.json, write its statistics, and keeps them.
report() {
	before=$(grep -c 'statistics are in' /run/vmm.messages 2>/dev/null || :)
	kill -USR1 $vmm_pid
	for _ in $(seq 100); do
		if [ "$(grep -c 'statistics are in' /run/vmm.messages 2>/dev/null || :)" -gt "${before:-0}" ]; then
			cp /run/stats.json "/run/stats.$1"
			return 0
		fi
		sleep 0.1
	done
	say "await-failed statistics"
	return 1
}

# say_report NAME FILE: statistics as one line.
say_report() {
	say "stats $1 $(sed 's/^ *//' "$2" | tr -d '\n')"
}

# held NAME: what the running VMM holds.
held() {
	say "held $1 fds=$(ls /proc/$vmm_pid/fd | wc -l) maps=$(wc -l </proc/$vmm_pid/maps)" \
		"threads=$(ls /proc/$vmm_pid/task | wc -l) rss=$(awk '$1 == "VmRSS:" { print $2 }' /proc/$vmm_pid/status)"
}

# taken WHEN: pages that are pinned for devices, and files of KVM, VFIO and iommufd that are open.
taken() {
	# The counters are exact once every CPU has handed in its own.
	echo 1 >/proc/sys/vm/stat_refresh
	say "taken $1 pinned=$(awk '$1 == "nr_foll_pin_acquired" { n += $2 } $1 == "nr_foll_pin_released" { n -= $2 }
		END { print n }' /proc/vmstat)" \
		"open=$(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -cE -e '-> (/dev/(kvm|vfio|iommu)|anon_inode:.*(kvm|vfio))' || :)"
}

# copy_again BDF: works the disk of a function by L1's own driver, as guests do.
copy_again() {
	disk=$(disk_of "$1")
	dd if="$disk" of="$disk" bs=65536 skip=16 seek=64 count=16 iflag=direct oflag=direct conv=notrunc 2>/dev/null
	dd if="$disk" of=/run/copied bs=65536 skip=16 count=16 iflag=direct 2>/dev/null
	if dd if="$disk" bs=65536 skip=64 count=16 iflag=direct 2>/dev/null | cmp -s - /run/copied; then
		say "copied same"
	else
		say "copied other"
	fi
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

# virtual CONTROLLER RESOURCE ACTION NUMBER: Virtualization Management of the NVMe controller $node (NVM
# Express Base 2.0, 5.27): resources are queues (0) and vectors (1); actions are to set what the
# physical function keeps (1), to give to a virtual one (8), and to let that work (9).
virtual() {
	nvme-admin "$node" 0x1c $(($1 << 16 | $2 << 8 | $3)) "$4"
}

# make_virtual BDF: one virtual function, working, of a physical one that the host's driver has.
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
