# Nothing says which driver is meant.
# Gets: nvme has the device: Linux takes the first driver that knows the IDs, unless
#  `driver_override` names the one that may.
device=/sys/bus/pci/devices/0000:00:05.0
echo 0000:00:05.0 >$device/driver/unbind
echo 0000:00:05.0 >/sys/bus/pci/drivers_probe
