#!/bin/sh
# descriptors.sh COMMAND...: starts a program that makes a virtual machine, prints which of its open
# files belong to KVM, and ends it.
set -eu
"$@" >/dev/null 2>&1 &
tries=0
until ls -l "/proc/$!/fd" 2>/dev/null | grep -q kvm-vcpu; do
	tries=$((tries + 1))
	if [ "$tries" -gt 200 ]; then
		echo "error: no vCPU after ten seconds" >&2
		exit 1
	fi
	sleep 0.05
done
ls -lv "/proc/$!/fd" | grep -o '/dev/kvm$\|anon_inode:kvm-.*'
kill "$!"
