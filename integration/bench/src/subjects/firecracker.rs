//! Firecracker (its docs/getting-started.md and docs/initrd.md). It takes no bzImage on x86, and
//! VFIO in its newest versions only, so it takes part on this machine's /dev/kvm alone.

use std::path::Path;

use super::arguments::Arguments;
use super::guest::Guest;

/// What follows the program's name; `config` is the file with [`config_file`]'s text.
pub fn arguments(config: &Path) -> Arguments {
    let mut words = Arguments::default();
    words.text(&["--no-api"]);
    words.path("--config-file", config);
    words
}

/// The file from which Firecracker takes its guest.
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
