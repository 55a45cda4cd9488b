# The right command, too early.
# Gets: The guest still runs, and so its device is in use: end the process `$vmm` first, and wait
#  for it, because the device is closed by its end.
mini-vmm host unbind 00:05.0
