# The driver that has the device is not asked to let go.
# Gets: nvme still has the device: Linux looks for drivers of devices that have none, so write the
#  address to `driver/unbind` before you write it to `drivers_probe`.
device=/sys/bus/pci/devices/0000:00:05.0
echo vfio-pci >$device/driver_override
echo 0000:00:05.0 >/sys/bus/pci/drivers_probe
