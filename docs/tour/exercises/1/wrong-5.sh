# All devices of the driver, not one.
# Gets: 0000:01:01.0 changed too: its driver was nvme and is vfio-pci. A loop over a driver's
#  devices takes them all, so name the one device that you want.
for device in /sys/bus/pci/drivers/nvme/0000:*; do
	echo vfio-pci >$device/driver_override
	address=$(basename $device)
	echo $address >$device/driver/unbind
	echo $address >/sys/bus/pci/drivers_probe
done
