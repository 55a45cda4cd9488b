# Runs in Debian's root: Slurm's daemons, and jobs that end in each way.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
. /lab/marker.sh
files=/etc/slurm/vfio

told() {
	status=$?
	[ $status = 0 ] || tail -n 30 /run/log/* /run/munge/log /run/out/* 2>/dev/null || :
	exit $status
}
trap told EXIT

mkdir -p /run/slurm /run/state /run/spool /run/munge /run/log
mkdir -m 1777 /run/out
chmod 1777 /run/spool
mini-vmm host slurm --node n1 --output $files
export SLURM_CONF=/run/slurm/slurm.conf
cp $files/gres.conf.n1 /run/slurm/gres.conf
# Without systemd, slurmd makes its control groups itself.
printf 'IgnoreSystemd=yes\nConstrainDevices=yes\n' >/run/slurm/cgroup.conf
cat >$SLURM_CONF <<END
ClusterName=test
SlurmctldHost=l1(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=/run/munge/socket
SlurmUser=root
StateSaveLocation=/run/state
SlurmdSpoolDir=/run/spool/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.%n.pid
SlurmctldLogFile=/run/log/slurmctld
SlurmdLogFile=/run/log/slurmd
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
MpiDefault=none
ReturnToService=2
SelectTypeParameters=CR_CPU
KillWait=10
$(grep -v -e '^NodeName=' -e '^Epilog=' -e '^#' $files/slurm.conf.vfio)
Epilog=/run/slurm/epilog
NodeName=n1 NodeHostname=l1 NodeAddr=127.0.0.1 Port=17001 CPUs=4 Gres=vfio:2
SlurmdParameters=config_overrides
PartitionName=all Nodes=ALL Default=YES
END
# The kernel resets a device when the last one who has it open closes it. So that the epilog's own
# reset is seen too, the register is set again before the epilog of `host slurm`.
cat >/run/slurm/epilog <<END
#!/bin/sh
. /lab/marker.sh
state=/run/mini-vmm/slurm/\$SLURMD_NODENAME.\$SLURM_JOB_ID
if [ -e "\$state" ]; then
	bdf=\$(cut -d' ' -f3 "\$state")
	decode "\$bdf"
	echo "closed=\$(marker "\$bdf")" >"/run/state/marked.\$SLURM_JOB_ID"
	mark "\$bdf"
	echo "marked=\$(marker "\$bdf")" >>"/run/state/marked.\$SLURM_JOB_ID"
fi
exec $files/epilog.sh
END
chmod 755 /run/slurm/epilog
chmod -R a+rX /run/slurm
dd if=/dev/urandom of=/run/munge/key bs=128 count=1 2>/dev/null
chmod 400 /run/munge/key
munged --force --socket=/run/munge/socket --key-file=/run/munge/key --pid-file=/run/munge/pid \
	--log-file=/run/munge/log --seed-file=/run/munge/seed
slurmctld
slurmd -N n1

within() { # within SECONDS COMMAND...
	left=$(($1 * 2))
	shift
	until "$@"; do
		left=$((left - 1))
		if [ $left = 0 ]; then
			say "await-failed $*"
			squeue
			sinfo -R
			return 1
		fi
		sleep 0.5
	done
}
is_node() { [ "$(sinfo --noheader --Node --format %T)" = "$1" ]; }
submit() { # submit ACT: a job whose guest does this
	setpriv --reuid=65534 --regid=65534 --clear-groups sbatch --parsable --output=/run/out/%j \
		--chdir=/ $files/job.sh /srv/bzImage --memory 256M --initrd /srv/initrd \
		--cmdline "$(cat /srv/cmdline) lab.act=$1"
}
said() { grep -q "L2: $2" "/run/out/$1" 2>/dev/null; }
gone() { [ -z "$(squeue --noheader --job "$1" 2>/dev/null)" ]; }
device_of() { cut -d' ' -f3 "/run/mini-vmm/slurm/n1.$1"; }
node_of() { echo "/dev/vfio/$(group_of "$1")"; }

# processes JOB: its VMM, and the processes that open and close devices for the VMM.
processes() {
	for comm in /proc/[0-9]*/comm; do
		read -r name <"$comm" || continue
		case $name in
		mini-vmm | vmm-*) ;;
		*) continue ;;
		esac
		if tr '\0' '\n' <"${comm%comm}environ" | grep -qx "SLURM_JOB_ID=$1"; then
			basename "${comm%/comm}"
		fi
	done 2>/dev/null
}
say_end() { # say_end WAY JOB BDF
	node=$(node_of "$3")
	say end "$1" "owner=$(stat -c %u "$node") mode=$(stat -c %a "$node")" \
		"$(echo $(cat "/run/state/marked.$2")) marker=$(marker "$3") driver=$(driver_of "$3")"
}

within 60 is_node idle
# A third job waits while two have the devices.
one=$(submit loop)
two=$(submit idle)
three=$(submit idle)
within 120 said "$one" looping
within 120 said "$two" listening
other=$(device_of "$two")
say other "$other"
say third "$(squeue --noheader --format %t --job "$three")"
scancel "$three"
# Another user opens no node of a job.
if setpriv --reuid=1 --regid=1 --clear-groups sh -c ": <>$(node_of "$other")"; then
	say foreign opened
else
	say foreign refused
fi
# Another job of the same user may, as far as Slurm is concerned, and VFIO refuses it.
cat >/run/out/probe.sh <<END
#!/bin/sh
#SBATCH --output=/run/out/%j --chdir=/
: <>$(node_of "$other")
END
probe=$(setpriv --reuid=65534 --regid=65534 --clear-groups sbatch --parsable /run/out/probe.sh)
within 60 gone "$probe"
say same-user "$(sed 's/.*: //' "/run/out/$probe")"

# The first job ends in the first way. Each further job has its device, because the other one is in
# use.
for way in scancel kill vmm-and-guardian slurmd while-slurmd-is-gone; do
	[ -n "$one" ] || one=$(submit loop)
	within 120 said "$one" looping
	bdf=$(device_of "$one")
	say given "$bdf owner=$(stat -c %u "$(node_of $bdf)")"
	say marker "$(marker $bdf)"
	say_confined $way
	case $way in
	scancel) scancel "$one" ;;
	kill) scancel --signal=KILL "$one" ;;
	vmm-and-guardian)
		killed=$(processes "$one")
		say killed "$(echo $killed | wc -w)"
		kill -KILL $killed
		;;
	slurmd)
		kill -KILL "$(cat /run/slurmd.n1.pid)"
		slurmd -N n1
		scancel "$one"
		;;
	while-slurmd-is-gone)
		kill -KILL "$(cat /run/slurmd.n1.pid)"
		kill -KILL $(processes "$one")
		slurmd -N n1
		;;
	esac
	within 120 gone "$one"
	within 60 is_node mixed
	say_end $way "$one" $bdf
	one=
done
scancel "$two"
within 60 gone "$two"
within 60 is_node idle
say_end other "$two" "$other"
