# calls.sh COMMAND...: prints the calls that a command makes to KVM, VFIO and iommufd, without their
# times. What the command itself prints is left out.
mini-vmm trace --output /run/calls -- "$@" >/dev/null
sed -nE 's/^ +[0-9.]+ +[0-9]+ ([a-z].*) <.*/\1/p' /run/calls
