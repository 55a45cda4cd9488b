# One after the other.
# Gets: There is one virtual function, and two are wanted: `sriov_numvfs` is changed from zero, in
#  one write.
echo 1 >/sys/bus/pci/devices/0000:02:00.0/sriov_numvfs
echo 2 >/sys/bus/pci/devices/0000:02:00.0/sriov_numvfs
