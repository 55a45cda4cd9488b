# By hand, behind mini-vmm's back.
# Gets: nvme has the controller, and mini-vmm still has a record of the loan: what `host bind` has
#  begun, `host unbind` ends.
kill $vmm
wait $vmm
echo >/sys/bus/pci/devices/0000:00:05.0/driver_override
echo 0000:00:05.0 >/sys/bus/pci/drivers/vfio-pci/unbind
echo 0000:00:05.0 >/sys/bus/pci/drivers_probe
