# A guest that has ended is not all.
# Gets: vfio-pci has the controller: a process that ends closes its device, and the driver stays;
#  which one was there before is in mini-vmm's record, and `mini-vmm host unbind` reads that.
kill $vmm
wait $vmm
