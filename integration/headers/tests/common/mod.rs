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
