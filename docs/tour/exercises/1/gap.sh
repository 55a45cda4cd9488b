# Chapter 1: give the NVMe controller 0000:00:05.0 to vfio-pci, and no other device.
# Check it with: cargo run -p tour -- check 1
device=/sys/bus/pci/devices/0000:00:05.0

# Here is the gap: three lines.
