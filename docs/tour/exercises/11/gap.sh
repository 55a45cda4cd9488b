# Chapter 11: a guest has the NVMe controller 0000:00:05.0, and its process is $vmm. End it, and
# give the controller back, so that the host's driver has it as before, and mini-vmm's record has
# gone.
# Check it with: cargo run -p tour -- check 11

# Here is the gap.
