#!/bin/sh
# A job that runs a guest with one device. Written by `mini-vmm host slurm`.
#   sbatch job.sh KERNEL [FLAG]...
#SBATCH --gres=vfio:1
#SBATCH --nodes=1
kernel=$1
shift
# The addresses that the prolog has found for this job.
for address in $MINI_VMM_DEVICE; do
	set -- --vfio "$address" "$@"
done
# In the shell's stead, so that the signals of scancel reach it.
exec mini-vmm --kernel "$kernel" "$@"
