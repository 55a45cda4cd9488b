# The host takes the device while the guest runs.
# Gets: The guest still runs, and its device has gone to `none`: a request of the host takes a
#  device from a guest, and does not end it.
echo 0000:00:05.0 >/sys/bus/pci/drivers/vfio-pci/unbind
