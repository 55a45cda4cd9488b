# A solution.
physical=/sys/bus/pci/devices/0000:02:00.0
echo 2 >$physical/sriov_numvfs
mini-vmm host bind 02:00.2
