#!/bin/sh
# /init of L1, the machine with an IOMMU: mounts, loads KVM and VFIO, runs the scenario, powers off.
# All output goes to ttyS0, which the lab reads; L1's kernel writes its messages to ttyS1.

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /run /tmp /root
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
chmod 1777 /tmp

exec </dev/null >/dev/ttyS0 2>&1
stty -F /dev/ttyS0 raw 115200
echo "LAB: l1-kernel $(uname -r)"

while read -r module; do
	insmod "/lib/lab-modules/$module" || echo "LAB: module-failed $module"
done </lib/lab-modules/order
# L1's kernel measures the TSC's frequency twice, the first time roughly. If the two differ and the
# CPU cannot scale the TSC for guests, as here, KVM gives the guest a TSC that does not advance,
# and the guest's timers never fire. A wide tolerance lets the guest use L1's TSC.
echo 500000 >/sys/module/kvm/parameters/tsc_tolerance_ppm || echo "LAB: module-failed kvm"

cd /boot || exit 1
sh -e -c '. /lab/functions.sh; . /lab/scenario.sh'
echo "LAB: script $?"
# A scenario can let another init go on, which powers off at the end.
[ ! -x /run/next ] || exec /run/next

# The UART must be empty before the machine goes away: the last close of a serial port waits until
# all has been sent.
exec >/dev/null 2>&1
sleep 0.1
poweroff -f
