# Makes Debian's root in /mnt ready, and lets L1 go on there with systemd as init.
set -- $boot
cp "$2" "$4" /mnt/srv/
cp /bin/mini-vmm /mnt/usr/bin/
cp /lab/functions.sh /bin/busybox /mnt/lab/

# guest NAME KERNEL ACT: the file of an instance.
guest() {
	mkdir -p /mnt/etc/mini-vmm
	cat >"/mnt/etc/mini-vmm/$1.toml" <<END
kernel = "/srv/$2"
initrd = "/srv/initrd"
cmdline = "$cmdline lab.act=$3"
memory = "256M"
stats = true
vfio = "0000:00:05.0,managed=on"
END
}
guest bad nowhere loop
guest button "$2" button
guest deaf "$2" loop
guest killed "$2" loop

cat >/mnt/lib/systemd/system/lab.service <<END
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/lab/busybox sh -e /lab/steps.sh
ExecStopPost=/lab/busybox poweroff -f
END
mkdir -p /mnt/etc/systemd/system/multi-user.target.wants
ln -s /lib/systemd/system/lab.service /mnt/etc/systemd/system/multi-user.target.wants/
cat >/run/next <<END
#!/bin/sh
exec switch_root /mnt /lib/systemd/systemd
END
chmod 755 /run/next
