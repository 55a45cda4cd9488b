# A solution.
device=/sys/bus/pci/devices/0000:00:05.0
echo vfio-pci >$device/driver_override
echo 0000:00:05.0 >$device/driver/unbind
echo 0000:00:05.0 >/sys/bus/pci/drivers_probe
