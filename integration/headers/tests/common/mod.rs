//! What the tests have in common.

use lab::headers::KernelHeaders;

/// The kernel's headers, from the cache or the mirror. Without them the test is skipped.
pub fn headers() -> Option<KernelHeaders> {
    match KernelHeaders::get() {
        Ok(found) => Some(found),
        Err(error) => {
            println!("SKIPPED: no kernel headers: {error}");
            assert!(!lab::host::required(), "{error}");
            None
        }
    }
}

/// Whether /dev/kvm can be used. Without it the test is skipped.
#[allow(dead_code)]
pub fn kvm() -> bool {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if let Err(error) = opened {
        println!("SKIPPED: /dev/kvm: {error}");
        assert!(!lab::host::required(), "/dev/kvm: {error}");
        return false;
    }
    true
}
