#!/bin/sh
# /init of L2, the guest: reports its devices, works its disks, then does the act that the command
# line names. Words: lab.act=WORD (poweroff, reboot, or one of the acts), lab.disks=none,
# lab.reads=N, lab.buffered=MIB, lab.load=PLAN, lab.hurry=1, lab.busy=1.

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
exec </dev/null >/dev/console 2>&1
# The kernel's messages stay in dmesg, so that they do not break lines of this script.
dmesg -n 1

act=poweroff
reads=256
buffered=0
load=
wanted=all
for word in $(cat /proc/cmdline); do
	case $word in
	lab.act=*) act=${word#*=} ;;
	lab.disks=*) wanted=${word#*=} ;;
	lab.reads=*) reads=${word#*=} ;;
	lab.buffered=*) buffered=${word#*=} ;;
	lab.load=*) load=${word#*=} ;;
	esac
done
. /lab/functions.sh
. /lab/acts.sh
. /lab/plugs.sh

say "init $(uname -r) after $(cut -d' ' -f1 /proc/uptime) s"
case $act in
reboot-[0-9]*) count_boots "${act#reboot-}" ;;
esac
say "cmdline $(cat /proc/cmdline)"
say "cpus $(nproc)"
say "memory $(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo) KiB"
say_functions

disks=
: >/run/disks
[ "$wanted" = none ] || wait_for_disks >/run/disks
while read -r bdf disk name; do
	serial=$(serial_of "$disk")
	say "disk $disk serial=$serial bdf=$bdf"
	if [ "$disk" = none ]; then
		say "no-disk $bdf"
		continue
	fi
	disks="$disks $disk"
	work_disk "$disk" "$name" "$serial"
done </run/disks
grep -E 'nvme|ahci|xhci|eth0' /proc/interrupts | while read -r line; do say "irq $line"; done
[ -z "$load" ] || load_disk

case $act in
reboot-once) reboot_once ;;
all-*) work_all "${act#all-}" ;;
loop) use_for_ever ;;
measure) measure_reads ;;
paused) work_through_a_pause ;;
queues) queue_on_each_cpu ;;
churn) move_while_reading ;;
net) talk_to_the_network ;;
lose-net) lose_the_network ;;
last-cpu) use_the_last_cpu ;;
memory-*) share_memory "${act#memory-}" ;;
displays) show_displays ;;
messages) say_messages ;;
edu) drive_edu ;;
peers) move_between_bars ;;
serial | serial-moved) talk_to_serial_ports ;;
work) work_cpus ;;
work-twice)
	work_cpus
	reboot_once
	;;
primary) serve_virtual_function ;;
topology) show_topology ;;
clock) show_clock ;;
windows) show_windows ;;
keep) keep_page ;;
button) await_button ;;
deaf) be_deaf ;;
plug-*) watch_plugs "${act#plug-}" ;;
idle) stay_idle ;;
starve) starve ;;
soak) soak ;;
esac
complain

say "done $act"
case $act in
reboot) reboot -f ;;
*) poweroff -f ;;
esac
