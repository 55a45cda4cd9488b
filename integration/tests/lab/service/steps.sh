# Runs as a service of Debian in L1: starts and ends guests as services, and reports what is seen.
exec >/dev/ttyS0 2>&1
stty -F /dev/ttyS0 raw 115200
. /lab/functions.sh
bdf=0000:00:05.0

value() { # value UNIT PROPERTY
	systemctl show --property "$2" --value "mini-vmm@$1"
}
journal() { # journal UNIT
	journalctl --quiet --output cat --unit "mini-vmm@$1"
}
wait_for() { # wait_for UNIT TEXT
	for _ in $(seq 200); do
		if journal "$1" | grep -q "$2"; then return 0; fi
		sleep 0.5
	done
	journal "$1"
	return 1
}
report() { # report KEY UNIT
	say "$1 unit=$(value "$2" ActiveState) result=$(value "$2" Result) driver=$(driver_of $bdf)" \
		"records=$(find /run/mini-vmm -name "*$bdf*" -type f 2>/dev/null | wc -l)"
}

if systemctl start mini-vmm@bad; then say "bad-start 0"; else say "bad-start $?"; fi
report bad bad

systemctl start mini-vmm@button
report started button
mini-vmm ctl /run/mini-vmm-button/api.sock counters --json >/run/counters
say "ran $(grep -c '"first_run"' /run/counters)"
wait_for button 'L2: listening'
systemctl stop mini-vmm@button
report stopped button
say "pressed $(journal button | grep -c 'L2: pressed')"
say_back $bdf

systemctl start mini-vmm@deaf
wait_for deaf 'L2: looping'
start=$(date +%s)
systemctl stop mini-vmm@deaf
say "waited $(($(date +%s) - start))"
report deaf deaf

systemctl start mini-vmm@killed
wait_for killed 'L2: looping'
group=/sys/fs/cgroup$(value killed ControlGroup)
say "processes $(wc -l <"$group/cgroup.procs")"
systemctl kill --signal KILL mini-vmm@killed
for _ in $(seq 100); do
	case $(value killed ActiveState) in failed | inactive) break ;; esac
	sleep 0.2
done
report killed killed
say "left $(cat /proc/[0-9]*/comm 2>/dev/null | grep -c -e mini-vmm -e vmm- || :)"
systemctl poweroff --force --force
