//! Firecracker (its docs/getting-started.md and docs/initrd.md). On x86, Firecracker does not boot
//! a bzImage, and only its newest versions have VFIO. The bench therefore runs Firecracker on this
//! machine's /dev/kvm only.

use std::path::Path;

use super::arguments::Arguments;
use super::guest::Guest;

/// The arguments; `config` is the path of the file with [`config_file`]'s text.
pub fn arguments(config: &Path) -> Arguments {
    let mut words = Arguments::default();
    words.text(&["--no-api"]);
    words.path("--config-file", config);
    words
}

/// The text of the file that describes the guest to Firecracker.
pub fn config_file(guest: &Guest<'_>) -> String {
    serde_json::json!({
        "boot-source": {
            "kernel_image_path": guest.kernel,
            "initrd_path": guest.initrd,
            "boot_args": guest.cmdline,
        },
        "drives": [],
        "machine-config": { "vcpu_count": guest.cpus, "mem_size_mib": guest.mib },
    })
    .to_string()
}
