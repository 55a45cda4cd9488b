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

# The record of this job alone: `scontrol show job` has all tasks of an array, or all parts of a
# heterogeneous job, whose first one has their common number. `%i` is `5_3` or `5+1` for them, and
# has no text of a user.
name=$(squeue --noheader --array --states=all --job "$SLURM_JOB_ID" --format='%A %i') ||
	fail "squeue does not know the job"
name=$(printf '%s\n' "$name" | sed -n "/^$SLURM_JOB_ID /{s///p;q;}")
[ -n "$name" ] || fail "squeue does not know the job"

# Slurm tells the indices of a resource of this kind only in the details of the job. A line has the
# nodes that have the same indices: `Nodes=n[1-2] ... GRES=gpu:1(IDX:3),vfio:2(IDX:0-1)`.
details=$(scontrol --details show job "$name") || fail "scontrol does not know the job"
# The name of a job, its comment and its folder are the user's, and may have newlines with lines
# like these. Slurm writes its own ones one below the other, and no text of a user beside them: so a
# line of a user is a block of its own. Which block is Slurm's cannot be told from the text, so with
# two of them the job has no device. It must not drain the node: anybody could.
blocks=$(printf '%s\n' "$details" | awk '
	{ is_line = /^[ \t]*Nodes=/ }
	is_line && !was_line { blocks++ }
	{ was_line = is_line }
	END { print blocks + 0 }')
if [ "$blocks" -gt 1 ]; then
	echo "mini-vmm: job $SLURM_JOB_ID on $SLURMD_NODENAME has no device: its name, its comment or" \
		"another text has a line that begins with Nodes=" >&2
	exit 0
fi
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
		break
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
