# The slices are cut, and nobody gets one.
# Gets: The second virtual function has no driver: nothing looks for one, so give it to vfio-pci, as
#  any function.
echo 2 >/sys/bus/pci/devices/0000:02:00.0/sriov_numvfs
