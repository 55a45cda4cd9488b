# The whole device.
# Gets: 0000:02:00.0 itself has the driver `vfio-pci` now: the physical function stays with the
#  host's driver, and only a slice of it goes away.
mini-vmm host bind 02:00.0
