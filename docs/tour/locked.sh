# locked.sh COMMAND...: starts a program that has a device, prints how much of its memory must stay
# where it is, and ends it.
"$@" >/dev/null 2>&1 &
tries=0
until grep -q 'VmLck.* [1-9]\|VmPin.* [1-9]' /proc/$!/status; do
	tries=$((tries + 1))
	[ "$tries" -lt 200 ] || break
	sleep 0.05
done
sleep 0.5
grep 'VmLck\|VmPin' /proc/$!/status
kill $!
