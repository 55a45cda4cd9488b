# Makes Debian's root in /mnt ready, and runs the steps there, below L1's own init.
set -- $boot
cp "$2" /mnt/srv/bzImage
cp "$4" /mnt/srv/initrd
cp /bin/mini-vmm /mnt/usr/bin/
cp /lab/functions.sh /bin/busybox /mnt/lab/
echo "$cmdline" >/mnt/srv/cmdline
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/system.slice
for folder in proc sys dev run tmp; do mount -o rbind /$folder /mnt/$folder; done
# Without udev, all may open KVM.
chmod 666 /dev/kvm
hostname l1
ip link set lo up
# getaddrinfo(3) gives no wildcard address on a host that has only 127.0.0.1.
ip address add 10.0.0.1/32 dev lo
echo "127.0.0.1 localhost l1" >/mnt/etc/hosts
mkdir -p /mnt/etc/udev/rules.d
for bdf in $devices; do
	bind_vfio $bdf
	# The first line of the rule that `host bind --persist` writes. NVMe is a part of this kernel,
	# so that command itself is refused here.
	cat >"/mnt/etc/udev/rules.d/05-mini-vmm-$bdf.rules" <<END
# mini-vmm: {"version":1,"device":"$bdf","path":"/devices/pci0000:00/$bdf","modalias":"$(
		cat $sys/$bdf/modalias)","driver":"vfio-pci","module":"vfio-pci"}
END
done
# slurmd's limit of locked memory is that of its jobs.
ulimit -l unlimited
chroot /mnt /bin/sh -e /lab/steps.sh || say "steps $?"
for bdf in $devices; do give_back $bdf; done
