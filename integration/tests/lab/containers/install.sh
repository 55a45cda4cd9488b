# Makes Debian's root in /mnt ready, and starts containers there, below L1's own init.
set -- $boot
mkdir -p /mnt/srv/guest /mnt/etc/cdi
cp "$2" /mnt/srv/guest/bzImage
cp "$4" /mnt/srv/guest/initrd
cp /bin/mini-vmm.oci.tar /mnt/srv/
cp /bin/busybox /mnt/lab/
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for folder in proc sys dev run tmp; do mount -o rbind /$folder /mnt/$folder; done
hostname l1
ip link set lo up
drivers >/run/drivers
host bind $device
say group $(group_of $device)
engine() {
	chroot /mnt /bin/sh -e /lab/engine.sh "$@"
}
engine load --quiet --input /srv/mini-vmm.oci.tar
for interface in container iommufd; do
	host cdi --iommu $interface --output /mnt/etc/cdi/mini-vmm.json
	say nodes $(engine contain --volume /lab/busybox:/busybox:ro --entrypoint /busybox IMAGE \
		find /dev/vfio /dev/iommu /dev/kvm 2>/dev/null | sort)
	guest="--kernel /guest/bzImage --initrd /guest/initrd -v --memory 256M --iommu $interface"
	start_vmm_in() {
		start_as '' chroot /mnt /bin/sh -e /lab/engine.sh contain --volume /srv/guest:/guest:ro \
			"$@" IMAGE $guest --vfio $device --cmdline "$cmdline"
	}
	start_vmm_in --ulimit memlock=65536:65536
	wait_vmm
	# What the message says is typed as it stands there.
	start_vmm_in $(sed -n 's/.*\(--ulimit memlock=[0-9]*\).*/\1/p' /run/vmm.messages)
	await 'L2: init' 120
	say_confined $interface
	wait_vmm
done
host unbind $device
state unbound
say_back $device
