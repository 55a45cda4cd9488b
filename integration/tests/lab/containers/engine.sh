# podman with runc in Debian's root. `contain OPTIONS IMAGE ARGUMENTS` runs a container of the
# project's image, which stands for IMAGE, with the device of the CDI file.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
engine() {
	podman --root /srv/containers --runroot /run/containers --storage-driver vfs \
		--cgroup-manager cgroupfs --events-backend none "$@"
}
if [ "$1" != contain ]; then
	engine "$@"
	exit
fi
shift
id=$(engine images --quiet mini-vmm)
# Each argument goes to the end, so that the order stays.
for argument in "$@"; do
	shift
	[ "$argument" != IMAGE ] || argument=$id
	set -- "$@" "$argument"
done
engine run --rm --runtime runc --network none --device mini-vmm.dev/vfio=0000:00:05.0 "$@"
