//! What is the host's never reaches a device, whatever its capabilities and the guest's accesses.

#![no_main]

#[path = "../../common/any_layout.rs"]
mod any_layout;
#[path = "../../common/host_owned.rs"]
mod host_owned;

use libfuzzer_sys::fuzz_target;
use vmm::vfio::function::policy::POLICY;

fuzz_target!(|input: &[u8]| {
    if let Err(found) = any_layout::check(&POLICY, input) {
        panic!("{found}");
    }
});
