# By hand, and not to the end.
# Gets: No driver has the controller: a driver that is taken away is not replaced by itself, and
#  `mini-vmm host unbind` knows which one is to come.
kill $vmm
wait $vmm
echo >/sys/bus/pci/devices/0000:00:05.0/driver_override
echo 0000:00:05.0 >/sys/bus/pci/drivers/vfio-pci/unbind
