//! The page that KVM shares with the thread that runs a vCPU (`struct kvm_run` of linux/kvm.h;
//! api.rst, 5).

use crate::guest::access::{Access, MOST_DATA, Register, Space};

/// Bytes of the structure that are read: up to the end of `internal`, the longest exit that is
/// decoded.
pub const HEAD: usize = 176;
/// Offset of `immediate_exit`.
pub const IMMEDIATE_EXIT: usize = 1;

/// Why KVM_RUN has returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest has accessed a port or memory. `data_offset` is where a port's data is in the
    /// mapping.
    Access(Access, Option<u64>),
    /// Another reason, with its fields.
    Other(u32, Vec<(&'static str, u64)>),
}

/// Names of the reasons, by number.
const REASONS: [&str; 42] = [
    "KVM_EXIT_UNKNOWN",
    "KVM_EXIT_EXCEPTION",
    "KVM_EXIT_IO",
    "KVM_EXIT_HYPERCALL",
    "KVM_EXIT_DEBUG",
    "KVM_EXIT_HLT",
    "KVM_EXIT_MMIO",
    "KVM_EXIT_IRQ_WINDOW_OPEN",
    "KVM_EXIT_SHUTDOWN",
    "KVM_EXIT_FAIL_ENTRY",
    "KVM_EXIT_INTR",
    "KVM_EXIT_SET_TPR",
    "KVM_EXIT_TPR_ACCESS",
    "KVM_EXIT_S390_SIEIC",
    "KVM_EXIT_S390_RESET",
    "KVM_EXIT_DCR",
    "KVM_EXIT_NMI",
    "KVM_EXIT_INTERNAL_ERROR",
    "KVM_EXIT_OSI",
    "KVM_EXIT_PAPR_HCALL",
    "KVM_EXIT_S390_UCONTROL",
    "KVM_EXIT_WATCHDOG",
    "KVM_EXIT_S390_TSCH",
    "KVM_EXIT_EPR",
    "KVM_EXIT_SYSTEM_EVENT",
    "KVM_EXIT_S390_STSI",
    "KVM_EXIT_IOAPIC_EOI",
    "KVM_EXIT_HYPERV",
    "KVM_EXIT_ARM_NISV",
    "KVM_EXIT_X86_RDMSR",
    "KVM_EXIT_X86_WRMSR",
    "KVM_EXIT_DIRTY_RING_FULL",
    "KVM_EXIT_AP_RESET_HOLD",
    "KVM_EXIT_X86_BUS_LOCK",
    "KVM_EXIT_XEN",
    "KVM_EXIT_RISCV_SBI",
    "KVM_EXIT_RISCV_CSR",
    "KVM_EXIT_NOTIFY",
    "KVM_EXIT_LOONGARCH_IOCSR",
    "KVM_EXIT_MEMORY_FAULT",
    "KVM_EXIT_TDX",
    "KVM_EXIT_ARM_SEA",
];

const IO: u32 = 2;
const HLT: u32 = 5;
const MMIO: u32 = 6;
const SHUTDOWN: u32 = 8;
const INTR: u32 = 10;
const BUS_LOCK: u32 = 33;
const NOTIFY: u32 = 37;
const MEMORY_FAULT: u32 = 39;

/// The kernel's name of a reason.
pub fn reason_name(reason: u32) -> Option<&'static str> {
    REASONS.get(reason as usize).copied()
}

impl Exit {
    /// The word for the reason, as `exits.by_reason` of `--stats` has it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Access(access, _) => match (access.register.space, access.register.write) {
                (Space::Port, false) => "pio_in",
                (Space::Port, true) => "pio_out",
                (Space::Memory, false) => "mmio_read",
                (Space::Memory, true) => "mmio_write",
            },
            Self::Other(HLT, _) => "halt",
            Self::Other(INTR, _) => "interrupted",
            Self::Other(SHUTDOWN, _) => "shutdown",
            Self::Other(BUS_LOCK, _) => "bus_lock",
            Self::Other(NOTIFY, _) => "notify",
            Self::Other(MEMORY_FAULT, _) => "memory_fault",
            Self::Other(..) => "other",
        }
    }

    /// Decodes the head of the page, by the reason. The data of a port is not in the head.
    pub fn parse(reason: u32, head: &[u8; HEAD]) -> Self {
        match reason {
            IO => Self::io(head),
            MMIO => Self::mmio(head),
            _ => Self::Other(reason, fields(reason, head)),
        }
    }

    fn io(head: &[u8; HEAD]) -> Self {
        let access = Access {
            register: Register {
                space: Space::Port,
                address: u64::from(u32_at(head, 34) & 0xffff),
                write: head[32] != 0,
            },
            width: head[33].min(8),
            count: u32_at(head, 36),
            data: Vec::new(),
        };
        Self::Access(access, Some(u64_at(head, 40)))
    }

    fn mmio(head: &[u8; HEAD]) -> Self {
        let width = head[48].min(8);
        let write = head[52] != 0;
        let data = match write {
            true => head[40..40 + usize::from(width)].to_vec(),
            false => Vec::new(),
        };
        let register = Register {
            space: Space::Memory,
            address: u64_at(head, 32),
            write,
        };
        let access = Access {
            register,
            width,
            count: 1,
            data,
        };
        Self::Access(access, None)
    }
}

/// `exit_reason`.
pub fn reason(head: &[u8; HEAD]) -> u32 {
    u32_at(head, 8)
}

/// The answer to a read of memory, in the head of the page at the next KVM_RUN.
pub fn mmio_answer(head: &[u8], width: u8) -> Vec<u8> {
    let end = 40 + usize::from(width.min(8));
    head.get(40..end).unwrap_or_default().to_vec()
}

/// The bytes of a port's access that are kept.
pub fn kept(access: &Access) -> usize {
    access.len().min(MOST_DATA as u64) as usize
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u64_at(bytes, at) as u32
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    for (byte, from) in value.iter_mut().zip(bytes.get(at..).unwrap_or_default()) {
        *byte = *from;
    }
    u64::from_le_bytes(value)
}

/// The fields of an exit by the kernel's names.
fn fields(reason: u32, head: &[u8]) -> Vec<(&'static str, u64)> {
    let dword = |at| u64::from(u32_at(head, at));
    let qword = |at| u64_at(head, at);
    match reason {
        0 => vec![("hardware_exit_reason", qword(32))],
        1 => vec![("exception", dword(32)), ("error_code", dword(36))],
        3 => vec![
            ("nr", qword(32)),
            ("args[0]", qword(40)),
            ("args[1]", qword(48)),
        ],
        9 => vec![
            ("hardware_entry_failure_reason", qword(32)),
            ("cpu", dword(40)),
        ],
        17 => {
            let mut all = vec![("suberror", dword(32)), ("ndata", dword(36))];
            let data = (0..u32_at(head, 36).min(16) as usize).map(|i| ("data", qword(40 + 8 * i)));
            all.extend(data);
            all
        }
        24 => vec![
            ("type", dword(32)),
            ("ndata", dword(36)),
            ("data[0]", qword(40)),
        ],
        26 => vec![("vector", u64::from(head[32]))],
        29 | 30 => vec![
            ("reason", dword(40)),
            ("index", dword(44)),
            ("data", qword(48)),
        ],
        NOTIFY => vec![("flags", dword(32))],
        MEMORY_FAULT => vec![
            ("flags", qword(32)),
            ("gpa", qword(40)),
            ("size", qword(48)),
        ],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(reason: u32, at_32: &[u8]) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[8..12].copy_from_slice(&reason.to_le_bytes());
        head[32..32 + at_32.len()].copy_from_slice(at_32);
        head
    }

    #[test]
    fn an_out_to_a_port() {
        // direction, size, port, count, data_offset
        let page = head(
            2,
            &[1, 4, 0xf8, 0x0c, 3, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
        );
        let exit = Exit::parse(reason(&page), &page);
        assert_eq!(exit.word(), "pio_out");
        let Exit::Access(access, Some(0x1000)) = exit else {
            panic!("{exit:?}");
        };
        assert_eq!(
            (access.register.address, access.width, access.count),
            (0xcf8, 4, 3)
        );
        assert_eq!(kept(&access), 12);
    }

    #[test]
    fn a_store_and_a_load() {
        let mut bytes = 0xfee0_0000u64.to_le_bytes().to_vec();
        bytes.extend(0x1234_5678u64.to_le_bytes());
        bytes.extend([2, 0, 0, 0, 1]);
        let Exit::Access(access, None) = Exit::parse(6, &head(6, &bytes)) else {
            panic!("no access");
        };
        assert_eq!(access.value(), Some(0x5678));
        *bytes.last_mut().unwrap() = 0;
        let page = head(6, &bytes);
        let exit = Exit::parse(reason(&page), &page);
        assert_eq!(exit.word(), "mmio_read");
        assert_eq!(mmio_answer(&page, 2), [0x78, 0x56]);
    }

    #[test]
    fn no_bytes_panic() {
        for number in 0..64 {
            for byte in [0, 1, 0x7f, 0xff] {
                let page = head(number, &[byte; HEAD - 32]);
                let exit = Exit::parse(reason(&page), &page);
                if let Exit::Access(access, _) = &exit {
                    assert!(kept(access) <= MOST_DATA);
                    let _ = access.value();
                }
                assert!(!exit.word().is_empty());
            }
        }
        assert_eq!(reason_name(37), Some("KVM_EXIT_NOTIFY"));
        assert_eq!(reason_name(39), Some("KVM_EXIT_MEMORY_FAULT"));
        assert_eq!(reason_name(1000), None);
    }
}
