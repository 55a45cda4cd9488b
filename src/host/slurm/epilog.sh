#!/bin/sh
# Slurm's Epilog (prolog_epilog(7)), as root: takes the nodes of the job's devices back, and resets
# the devices. Written by `mini-vmm host slurm`. A failure drains this node, because the next job
# could find what this one has left in a device.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
state=/run/mini-vmm/slurm/$SLURMD_NODENAME.$SLURM_JOB_ID
[ -e "$state" ] || exit 0

fail() {
	echo "mini-vmm: job $SLURM_JOB_ID on $SLURMD_NODENAME: $1" >&2
	exit 1
}

# A mapping keeps a device node open too, after its descriptor was closed. Processes end meanwhile,
# of which find complains.
is_open() {
	[ -n "$(find /proc/[0-9]*/fd /proc/[0-9]*/map_files \
		\( -lname "$1" -o -lname "$1 (deleted)" \) -print -quit 2>/dev/null)" ]
}

while read -r _ node addresses; do
	# The nodes first: nobody opens them any more.
	chown 0:0 "$node"
	chmod 600 "$node"
	# Slurm has killed the job. The process that closes a device for mini-vmm may need a moment.
	tries=0
	while is_open "$node"; do
		tries=$((tries + 1))
		[ $tries -lt 30 ] || fail "a process of the job still has $node open"
		sleep 1
	done
	for address in $addresses; do
		reset=/sys/bus/pci/devices/$address/reset
		[ -w "$reset" ] || fail "$address has no reset, so the next job could see this one's data"
		echo 1 >"$reset" || fail "$address could not be reset"
	done
done <"$state"
rm "$state"
