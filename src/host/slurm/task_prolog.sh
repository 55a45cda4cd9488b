#!/bin/sh
# Slurm's TaskProlog (prolog_epilog(7)), as the job's user: what it prints sets the variables of the
# job. Written by `mini-vmm host slurm`.
state=/run/mini-vmm/slurm/$SLURMD_NODENAME.$SLURM_JOB_ID
[ -e "$state" ] || exit 0
echo "export MINI_VMM_DEVICE=$(cut -d' ' -f3- "$state" | tr '\n' ' ' | sed 's/ $//')"
