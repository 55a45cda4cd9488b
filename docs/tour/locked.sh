# locked.sh COMMAND...: starts a guest that has a device, waits for its first line, prints how much
# of the VMM's memory must stay where it is, and ends it.
rm -f /run/guest-said
"$@" >/run/guest-said 2>/dev/null &
tries=0
until [ -s /run/guest-said ]; do
	tries=$((tries + 1))
	if [ "$tries" -gt 200 ]; then
		echo "error: the guest says nothing" >&2
		break
	fi
	sleep 0.05
done
grep 'VmLck\|VmPin' /proc/$!/status
kill $!
