# All slices.
# Gets: Both virtual functions have vfio-pci: each is in a group of its own, so one can go without
#  the other.
echo 2 >/sys/bus/pci/devices/0000:02:00.0/sriov_numvfs
mini-vmm host bind 02:00.1
mini-vmm host bind 02:00.2
