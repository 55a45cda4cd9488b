# Counted from one.
# Gets: The first virtual function has vfio-pci, and the second was meant: function 0 is the
#  physical one, so the second virtual one is 0000:02:00.2.
echo 2 >/sys/bus/pci/devices/0000:02:00.0/sriov_numvfs
mini-vmm host bind 02:00.1
