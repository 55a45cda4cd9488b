# Runs as a service of Debian in L1, once a boot: the step that the kernel's command line names.
exec >/dev/ttyS0 2>&1
stty -F /dev/ttyS0 raw 115200
. /lab/functions.sh
disk=0000:00:05.0
twin=0000:00:06.0

say_drivers() { # say_drivers KEY
	say "$1 disk=$(driver_of $disk) twin=$(driver_of $twin)"
}
# Counts the files that make the device persistent.
count_files() {
	find /etc/udev/rules.d /etc/initramfs-tools -name '*mini-vmm*' | wc -l
}
# met BDF: whether the NVMe driver of this boot has probed the function.
met() {
	dmesg | grep -c "nvme .*pci function $1" || :
}
# Reports what `host list` says of the persistent device.
say_listed() {
	mini-vmm host list --all --json >/run/list
	same=$(tr ',' '\n' </run/list | sed -n 's/.*"same_device": *\([a-z]*\).*/\1/p')
	say "listed same=$same"
}

udevadm settle
step=$(sed 's/.*lab\.step=\([a-z]*\).*/\1/' /proc/cmdline)
case $step in
bind)
	say_drivers before
	status=0
	mini-vmm host bind $disk --persist --dry-run >/run/dry-run || status=$?
	say "dry-run $status files=$(count_files)"
	status=0
	mini-vmm host bind $disk --persist || status=$?
	say "bind $status"
	say_drivers after
	# Each file that the dry run named is there.
	missing=0
	for file in $(sed -n "s/.*cat > \([^ ]*\) <<.*/\1/p" /run/dry-run); do
		[ -s "$file" ] || missing=$((missing + 1))
	done
	named=$(grep -c 'cat > ' /run/dry-run || :)
	[ "$named" = "$(count_files)" ] || say "named $named"
	say "told $((named < 2)) missing=$missing"
	;;
look)
	say_drivers drivers
	say "met disk=$(met $disk) twin=$(met $twin)"
	say_listed
	;;
other)
	say_drivers drivers
	say_listed
	status=0
	mini-vmm host bind $disk --persist || status=$?
	say "refused $status"
	status=0
	mini-vmm host unbind $disk --persist || status=$?
	say "unbind $status files=$(count_files)"
	;;
esac
