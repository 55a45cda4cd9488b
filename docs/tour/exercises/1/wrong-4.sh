# What many guides say.
# Gets: vfio-pci has the device, and would take every other controller with the same IDs too:
#  `new_id` names a kind of device, and `driver_override` names one device.
device=/sys/bus/pci/devices/0000:00:05.0
echo 0000:00:05.0 >$device/driver/unbind
echo 1b36 0010 >/sys/bus/pci/drivers/vfio-pci/new_id
