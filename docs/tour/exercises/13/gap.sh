# Chapter 13: make two virtual functions of 0000:02:00.0, and give the second of them to vfio-pci.
# The first has no driver afterwards; Linux does not look for one here (sriov_drivers_autoprobe is
# 0).
# Check it with: cargo run -p tour -- check 13
physical=/sys/bus/pci/devices/0000:02:00.0

# Here is the gap.
