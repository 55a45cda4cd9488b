# A solution.
kill $vmm
wait $vmm
mini-vmm host unbind 00:05.0
