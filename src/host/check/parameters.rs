//! Remedies that change the kernel's parameters.

/// The remedy that changes the kernel's parameters permanently on common distributions.
pub(super) fn parameter(change: &str) -> String {
    format!(
        "boot {change}: change GRUB_CMDLINE_LINUX in /etc/default/grub, then as root: \
         update-grub (or grub2-mkconfig -o /boot/grub2/grub.cfg); reboot"
    )
}
