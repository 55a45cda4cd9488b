//! Any JSON in a request of the control socket: a body that is taken is taken again as it was, and
//! what follows from it names one device and only options that exist.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mini_vmm::control::device::{AddDevice, RemoveDevice};
use vmm::config::device::DeviceConfig;

fn add(body: &[u8]) {
    let add = match AddDevice::parse(body) {
        Ok(add) => add,
        Err(e) => {
            assert!(e.hint().is_some(), "{e}");
            return;
        }
    };
    let text = serde_json::to_vec(&add).expect("JSON");
    let again = AddDevice::parse(&text).expect("what was written is read");
    let text_again = serde_json::to_vec(&again).expect("JSON");
    assert_eq!(text, text_again, "a body goes through unchanged");
    for function in add.all() {
        match function.config(None) {
            Ok(config) => checked(function, &config),
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
}

/// The options come from fields: no value brings another option with it.
fn checked(body: &AddDevice, config: &DeviceConfig) {
    let fields = serde_json::to_value(body).expect("JSON");
    assert_eq!(fields["path"], *config.address, "the device is another one");
    let managed = fields["managed"].as_bool().unwrap_or(false);
    assert_eq!(config.managed, managed, "an option came with a value");
    if let Some(number) = fields["pci_device_id"].as_u64() {
        // The number of Cloud Hypervisor is a device number; `slot` has it in hexadecimal digits.
        let slot = format!("{number:x}").parse().ok();
        assert_eq!(config.slot, slot, "the slot is another one");
    }
    assert!(config.given.is_none(), "nobody has sent a descriptor");
    // The body of this configuration asks for the same.
    let Ok(body) = AddDevice::new(config, false) else {
        return;
    };
    let again = body.config(None).expect("it was a configuration");
    assert_eq!((&again.address, again.slot), (&config.address, config.slot));
    assert_eq!(
        (again.managed, again.clique),
        (config.managed, config.clique)
    );
    assert_eq!((again.vf_token, again.port), (config.vf_token, config.port));
}

fn remove(body: &[u8]) {
    let Ok(remove) = serde_json::from_slice::<RemoveDevice>(body) else {
        return;
    };
    let text = serde_json::to_vec(&remove).expect("JSON");
    let again: RemoveDevice = serde_json::from_slice(&text).expect("what was written is read");
    assert_eq!(remove, again, "a body goes through unchanged");
}

// The first byte chooses the request; the rest is JSON.
fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((b'a', rest)) => add(rest),
        Some((b'r', rest)) => remove(rest),
        _ => {}
    }
});
