# Makes Debian's root in /mnt ready: its boots run the steps.
cp /bin/mini-vmm /mnt/usr/bin/
cp /lab/functions.sh /bin/busybox /mnt/lab/
cat >/mnt/lib/systemd/system/lab.service <<END
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh -e /lab/steps.sh
ExecStopPost=/bin/systemctl poweroff --force
END
# A new initramfs has few modules, because making it in an emulated machine takes long.
echo MODULES=list >/mnt/etc/initramfs-tools/conf.d/lab
printf 'nvme\next4\n' >>/mnt/etc/initramfs-tools/modules
mkdir -p /mnt/etc/systemd/system/multi-user.target.wants
ln -s /lib/systemd/system/lab.service /mnt/etc/systemd/system/multi-user.target.wants/
for file in /mnt/boot/vmlinuz-*; do say "kernel ${file#*/vmlinuz-}"; done
umount /mnt
