//! Words for the exits after which KVM cannot go on with a guest
//! (Documentation/virt/kvm/api.rst, 5 "The kvm_run structure").
//!
//! Everything that KVM tells is in the words: they are all that a report of the fault can have.

use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_HYPERV, KVM_EXIT_NOTIFY, KVM_EXIT_XEN,
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
};

const UNEMULATED: &str = "KVM cannot emulate an instruction of the guest's";

/// Whether the words are those of a failed emulation.
pub fn is_unemulated(words: &str) -> bool {
    words.contains(UNEMULATED)
}

/// KVM_EXIT_INTERNAL_ERROR, with its suberror and its data. The instruction is in the data of a
/// failed emulation, where KVM knows it: flags, size and 15 bytes (`emulation_failure`).
pub fn internal_error(suberror: u32, data: &[u64]) -> String {
    let what = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => {
            format!("{UNEMULATED} (KVM_INTERNAL_ERROR_EMULATION")
        }
        KVM_INTERNAL_ERROR_SIMUL_EX => {
            "an exception came while another was delivered (KVM_INTERNAL_ERROR_SIMUL_EX".into()
        }
        KVM_INTERNAL_ERROR_DELIVERY_EV => {
            "KVM cannot deliver an event to the guest (KVM_INTERNAL_ERROR_DELIVERY_EV".into()
        }
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            "the processor left the guest for a reason that KVM does not know \
             (KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON"
                .into()
        }
        other => {
            return format!(
                "KVM has an internal error (suberror {other}{})",
                words(data)
            );
        }
    };
    let instruction = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => instruction(data).unwrap_or_default(),
        _ => String::new(),
    };
    format!("{what}{instruction}{})", words(data))
}

/// The instruction that could not be emulated, if KVM has its bytes.
fn instruction(data: &[u64]) -> Option<String> {
    let [flags, bytes @ ..] = data else {
        return None;
    };
    if flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) == 0 {
        return None;
    }
    let bytes: Vec<u8> = bytes.iter().take(2).flat_map(|w| w.to_le_bytes()).collect();
    let (size, bytes) = bytes.split_first()?;
    let bytes = bytes.get(..usize::from(*size))?;
    let text: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!(", instruction {}", text.join(" ")))
}

fn words(data: &[u64]) -> String {
    let words: Vec<_> = data.iter().map(|word| format!("{word:#x}")).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(", data {}", words.join(" ")),
    }
}

/// KVM_EXIT_FAIL_ENTRY. The reason is the processor's: on Intel an exit reason with bit 31, or the
/// VM-instruction error (SDM volume 3, appendix C and 31.4), on AMD the exit code (APM volume 2,
/// appendix C).
pub fn fail_entry(reason: u64, cpu: u32) -> String {
    let meaning = match reason {
        7 => ": invalid control fields",
        8 => ": invalid host state",
        0x8000_0021 => ": invalid guest state",
        0x8000_0022 => ": MSR loading failed",
        0x8000_0029 => ": machine check during VM entry",
        0xffff_ffff | u64::MAX => ": invalid guest state in the VMCB",
        _ => "",
    };
    format!("the processor refused to enter the guest (reason {reason:#x}{meaning}; CPU {cpu})")
}

/// KVM_EXIT_MEMORY_FAULT.
pub fn memory_fault(gpa: u64, size: u64, flags: u64) -> String {
    format!("the host has no page for {gpa:#x}, {size:#x} bytes (flags {flags:#x})")
}

/// KVM_EXIT_UNKNOWN, with the processor's own reason.
pub fn unknown(hardware_reason: u64) -> String {
    format!("KVM does not know why the processor left the guest (reason {hardware_reason:#x})")
}

/// KVM_EXIT_EXCEPTION.
pub fn exception(vector: u32, error_code: u32) -> String {
    format!("KVM gave back exception {vector} of the guest (error code {error_code:#x})")
}

/// An exit that kvm-ioctls does not decode.
pub fn undecoded(reason: u32) -> String {
    let name = match reason {
        KVM_EXIT_HYPERV => " (KVM_EXIT_HYPERV)",
        KVM_EXIT_DIRTY_RING_FULL => " (KVM_EXIT_DIRTY_RING_FULL)",
        KVM_EXIT_XEN => " (KVM_EXIT_XEN)",
        KVM_EXIT_NOTIFY => " (KVM_EXIT_NOTIFY)",
        _ => "",
    };
    format!("KVM stopped the vCPU with exit reason {reason}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_error_has_its_suberror_and_data() {
        // The flags, then the size 3 and the bytes c4 e2 78 of an instruction, padded with nops.
        let data = [1, 0x9090_9090_78e2_c403, 0x9090_9090_9090_9090, 0x30];
        for (suberror, data, says) in [
            (
                1,
                &data[..],
                "KVM cannot emulate an instruction of the guest's (KVM_INTERNAL_ERROR_EMULATION, \
                 instruction c4 e2 78, data 0x1 0x9090909078e2c403 0x9090909090909090 0x30)",
            ),
            (
                1,
                &[],
                "KVM cannot emulate an instruction of the guest's (KVM_INTERNAL_ERROR_EMULATION)",
            ),
            (
                1,
                &[0, 0x30],
                "KVM cannot emulate an instruction of the guest's \
                 (KVM_INTERNAL_ERROR_EMULATION, data 0x0 0x30)",
            ),
            (
                3,
                &[0x80, 0x30],
                "KVM cannot deliver an event to the guest \
                 (KVM_INTERNAL_ERROR_DELIVERY_EV, data 0x80 0x30)",
            ),
            (
                4,
                &[0x4d],
                "the processor left the guest for a reason that KVM does not know \
                 (KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, data 0x4d)",
            ),
            (
                99,
                &[7],
                "KVM has an internal error (suberror 99, data 0x7)",
            ),
        ] {
            let words = internal_error(suberror, data);
            assert_eq!(words, says);
            assert_eq!(is_unemulated(&words), suberror == 1);
        }
        // A size beyond the bytes names no instruction.
        let long = internal_error(1, &[1, 0xff, 0]);
        assert!(!long.contains("instruction ff"), "{long}");
        assert!(long.contains("data 0x1 0xff 0x0"), "{long}");
    }

    #[test]
    fn every_end_has_what_kvm_tells() {
        assert_eq!(
            fail_entry(0x8000_0021, 3),
            "the processor refused to enter the guest \
             (reason 0x80000021: invalid guest state; CPU 3)"
        );
        assert_eq!(
            fail_entry(0x77, 0),
            "the processor refused to enter the guest (reason 0x77; CPU 0)"
        );
        assert_eq!(
            memory_fault(0x1000, 0x1000, 8),
            "the host has no page for 0x1000, 0x1000 bytes (flags 0x8)"
        );
        assert!(unknown(0x31).ends_with("(reason 0x31)"));
        assert!(exception(13, 0x10).contains("exception 13 of the guest (error code 0x10)"));
        assert_eq!(
            undecoded(37),
            "KVM stopped the vCPU with exit reason 37 (KVM_EXIT_NOTIFY)"
        );
    }
}
