#!/bin/sh
# Slurm's Prolog (prolog_epilog(7)), as root: gives the job's user the nodes of its devices.
# Written by `mini-vmm host slurm`. A failure drains this node, and the job waits for another one.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
folder=@FOLDER@
map=$folder/devices.$SLURMD_NODENAME
state=/run/mini-vmm/slurm/$SLURMD_NODENAME.$SLURM_JOB_ID

fail() {
	echo "mini-vmm: job $SLURM_JOB_ID on $SLURMD_NODENAME: $1" >&2
	exit 1
}

# Slurm tells the indices of a resource of this kind only in the details of the job. A line has the
# nodes that have the same indices: `Nodes=n[1-2] ... GRES=gpu:1(IDX:3),vfio:2(IDX:0-1)`.
details=$(scontrol --details show job "$SLURM_JOB_ID") || fail "scontrol does not know the job"
indices=
while read -r line; do
	case $line in
	Nodes=*GRES=*) ;;
	*) continue ;;
	esac
	nodes=${line#Nodes=}
	if scontrol show hostnames "${nodes%% *}" | grep -qxF "$SLURMD_NODENAME"; then
		indices=$(printf '%s\n' "${line##* GRES=}" |
			sed -n 's/^\(.*)*,\)\{0,1\}vfio:[^(]*(IDX:\([0-9,-]*\)).*/\2/p')
	fi
done <<EOF
$details
EOF
[ -n "$indices" ] || exit 0

# `0-1,3` as a list.
numbers=
for part in $(printf '%s' "$indices" | tr , ' '); do
	numbers="$numbers $(seq "${part%-*}" "${part#*-}" | tr '\n' ' ')"
done

mkdir -p "${state%/*}"
: >"$state"
for number in $numbers; do
	row=$(grep "^$number " "$map") || fail "$map has no device $number"
	# The numbers of groups change from boot to boot, and so may the meaning of a node.
	node=$(echo "$row" | cut -d' ' -f2)
	[ -c "$node" ] || fail "$node is no device node; write the files of \`host slurm\` anew"
	for address in $(echo "$row" | cut -d' ' -f3-); do
		device=/sys/bus/pci/devices/$address
		case $node in
		*/devices/*) [ -e "$device/vfio-dev/${node##*/}" ] ;;
		*) [ "$(basename "$(readlink "$device/iommu_group")")" = "${node##*/}" ] ;;
		esac || fail "$node is not $address; write the files of \`host slurm\` anew"
	done
	owner=$(stat -c %u "$node")
	[ "$owner" = 0 ] || fail "$node belongs to user $owner, of an earlier job"
	echo "$row" >>"$state"
	chmod 600 "$node"
	chown "$SLURM_JOB_UID" "$node"
done
