# Linux is not told to look.
# Gets: No driver has the device: `driver_override` says which driver may have it, and Linux looks
#  for one when the address is written to `drivers_probe`.
device=/sys/bus/pci/devices/0000:00:05.0
echo vfio-pci >$device/driver_override
echo 0000:00:05.0 >$device/driver/unbind
