#!/bin/sh
# Slurm with two nodes on this machine, in namespaces of its own: `$1` is a folder with a made-up
# sys/, and etc.n1/ and etc.n2/ with each node's rules. $PROGRAM is mini-vmm. Prints what jobs see.
set -eu
folder=$1
PATH=/usr/sbin:/usr/bin:/sbin:/bin
hostname test
ip link set lo up
# getaddrinfo(3) gives no wildcard address on a host that has only 127.0.0.1.
ip address add 10.0.0.1/32 dev lo

told() {
	status=$?
	[ $status = 0 ] || cat "$folder"/log/* >&2
	exit $status
}
trap told EXIT

# The processors and control groups are the machine's, and the devices are made up.
mkdir -p "$folder/dev" "$folder/log"
for part in devices/system fs/cgroup; do
	mkdir -p "$folder/sys/$part"
	mount --rbind "/sys/$part" "$folder/sys/$part"
done
echo "127.0.0.1 localhost test" >"$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts
mount --rbind "$folder/sys" /sys
mount -t tmpfs none /run
mount -t tmpfs -o mode=755 none "$folder/dev"
mkdir -p "$folder/dev/pts" "$folder/dev/shm" "$folder/dev/vfio"
for node in null zero full random urandom tty; do cp -a "/dev/$node" "$folder/dev"; done
for group in 12 7 9; do mknod -m 600 "$folder/dev/vfio/$group" c 1 3; done
mount --rbind /dev/pts "$folder/dev/pts"
mount --rbind "$folder/dev" /dev

files=/run/vfio
for node in n1 n2; do
	mount --bind "$folder/etc.$node" /etc/udev/rules.d
	"$PROGRAM" host slurm --node $node --output $files >&2
	umount /etc/udev/rules.d
done
gres() { # gres NODE
	grep -c "^NodeName=$1 " "$files/gres.conf.$1"
}

export SLURM_CONF=/run/slurm/slurm.conf
mkdir -p /run/slurm /run/state /run/spool
cat "$files"/gres.conf.* >/run/slurm/gres.conf
cat >"$SLURM_CONF" <<EOF
ClusterName=test
SlurmctldHost=test(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=/run/munge.socket
SlurmUser=root
StateSaveLocation=/run/state
SlurmdSpoolDir=/run/spool/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectTypeParameters=CR_CPU
KillWait=2
$(grep -v -e '^NodeName=' -e '^#' "$files/slurm.conf.vfio")
NodeName=n1 NodeHostname=test NodeAddr=127.0.0.1 Port=17001 CPUs=4 Gres=vfio:$(gres n1)
NodeName=n2 NodeHostname=test NodeAddr=127.0.0.1 Port=17002 CPUs=4 Gres=vfio:$(gres n2)
SlurmdParameters=config_overrides
PartitionName=all Nodes=ALL Default=YES
EOF
chmod -R a+rX /run/slurm
dd if=/dev/urandom of=/run/munge.key bs=128 count=1 2>/dev/null
chmod 400 /run/munge.key
munged --force --socket=/run/munge.socket --key-file=/run/munge.key --pid-file=/run/munge.pid \
	--log-file=/run/munge.log --seed-file=/run/munge.seed
slurmctld
slurmd -N n1
slurmd -N n2

await() { # await SECONDS COMMAND...
	left=$(($1 * 10))
	shift
	until "$@"; do
		left=$((left - 1))
		if [ $left = 0 ]; then
			echo "this did not become true: $*" >&2
			squeue >&2
			sinfo -R >&2
			exit 1
		fi
		sleep 0.1
	done
}
idle() { [ "$(sinfo --noheader --Node --format %T | sort -u)" = idle ]; }
await 30 idle

as() { # as USER COMMAND...: the user may not change a root's node
	user=$1
	shift
	setpriv --reuid="$(id -u "$user")" --regid="$(id -g "$user")" --clear-groups "$@"
}
chmod 1777 /run/spool
mkdir -m 1777 /run/out
cat >/run/job.sh <<'EOF'
#!/bin/sh
#SBATCH --gres=vfio:1
#SBATCH --output=/run/out/log.%j
exec >/run/out/$SLURM_JOB_ID
echo "node $SLURMD_NODENAME"
echo "device $MINI_VMM_DEVICE"
for group in 12 7 9; do
	(: <>/dev/vfio/$group) 2>/dev/null && echo "opens $group"
done
echo ready
while [ ! -e /run/out/end.$SLURM_JOB_ID ]; do sleep 0.1; done
EOF
submit() { # submit USER [FLAG]...
	user=$1
	shift
	as "$user" sbatch --parsable "$@" /run/job.sh
}
ready() { grep -q ready "/run/out/$1" 2>/dev/null; }
gone() { [ -z "$(squeue --noheader --job "$1" 2>/dev/null)" ]; }
state() { squeue --noheader --format %t --job "$1"; }
owners() {
	stat -c '%n %u %a' /dev/vfio/12 /dev/vfio/7 /dev/vfio/9 | sed 's,/dev/vfio/,,' | tr '\n' ' '
}
resets() { cat /sys/bus/pci/devices/*/reset | tr '\n' ' '; }

# Four jobs for three devices. Those that run are of three users.
one=$(submit nobody)
two=$(submit daemon)
three=$(submit bin)
for job in $one $two $three; do await 30 ready "$job"; done
four=$(submit daemon)
sleep 2
echo "fourth: $(state "$four")"
for job in $one $two $three; do
	echo "job"
	cat "/run/out/$job"
done
echo "owners while they run: $(owners)"
echo "resets: $(resets)"

# Each end of a job gives its node back, and resets the device before the next job has it.
touch "/run/out/end.$one"
await 30 gone "$one"
await 30 ready "$four"
echo "the fourth has the device of the first: $(grep device "/run/out/$one" "/run/out/$four" |
	cut -d: -f2 | sort -u | wc -l)"
scancel "$two"
await 30 gone "$two"
scancel --signal=KILL "$three"
await 30 gone "$three"
touch "/run/out/end.$four"
await 30 gone "$four"
await 30 idle
echo "owners at the end: $(owners)"
echo "resets at the end: $(resets)"

# A job with two devices of one node has both.
both=$(submit nobody --gres=vfio:2)
await 30 ready "$both"
grep -e device -e opens "/run/out/$both" | sed 's/^/both: /'
touch "/run/out/end.$both"
await 30 gone "$both"
# A job without a device has no variable and no node.
none=$(submit nobody --gres=none)
await 30 ready "$none"
grep -e device -e opens "/run/out/$none" | sed 's/^/none: /'
touch "/run/out/end.$none"
await 30 gone "$none"

# A text of the user that looks like Slurm's own gives no device, and does not drain the node. One
# with newlines alone is none.
fake='x
     Nodes=n1 CPU_IDs=0 Mem=0 GRES=vfio:1(IDX:1)'
for text in "$fake" 'x

JobId=1 x'; do
	job=$(submit nobody --nodelist=n1 --job-name="$text" --comment="$text")
	await 30 ready "$job"
	echo "text of a user: $(grep -c opens "/run/out/$job" || true)"
	touch "/run/out/end.$job"
	await 30 gone "$job"
done
# Each task of an array has a device of its own.
array=$(submit nobody --array=1-3)
all_run() { [ "$(squeue --noheader --array --job "$array" --format=%t | grep -c R)" = 3 ]; }
await 30 all_run
tasks=$(squeue --noheader --array --job "$array" --format=%A)
for task in $tasks; do
	await 30 ready "$task"
	grep device "/run/out/$task" | sed 's/^/task: /'
	touch "/run/out/end.$task"
done
await 30 gone "$array"
await 30 idle
echo "owners after the array: $(owners)"

# slurmd is killed and started again while a job runs: the job's end is as ever.
last=$(submit nobody --nodelist=n2)
await 30 ready "$last"
kill -9 "$(cat /run/slurmd.n2.pid)"
slurmd -N n2
touch "/run/out/end.$last"
await 60 gone "$last"
await 60 idle
echo "owners after slurmd was killed: $(owners)"

# A node that has another meaning than when the files were written is given to nobody.
rm /sys/bus/pci/devices/0000:03:00.0/iommu_group
ln -s /sys/kernel/iommu_groups/7 /sys/bus/pci/devices/0000:03:00.0/iommu_group
wrong=$(submit nobody --nodelist=n2)
drained() { sinfo --noheader --nodes n2 --format %T | grep -q drain; }
await 30 drained
echo "owners after a wrong node: $(owners)"
if [ -e "/run/out/$wrong" ]; then echo "the job ran"; fi
