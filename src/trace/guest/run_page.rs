//! The page that KVM shares with the thread that runs a vCPU (`struct kvm_run` of linux/kvm.h;
//! api.rst, 5).

use crate::guest::access::{Access, MOST_DATA, Register, Space};

/// Bytes of the structure that are read: up to the end of `internal`, the longest exit that is
/// decoded.
pub const HEAD: usize = 176;
/// Where in a vCPU's mapping the data of a port is (KVM_PIO_PAGE_OFFSET), and the ring
/// (KVM_COALESCED_MMIO_PAGE_OFFSET), on x86.
pub const DATA: u64 = 4096;
pub const RING: u64 = 2 * 4096;
/// Offset of `exit_reason`.
pub const REASON: usize = 8;
/// Bytes that a program may write before KVM_RUN: up to the end of the data of a read of memory.
pub const ANSWER: usize = 48;
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

/// KVM_EXIT_IO.
pub const IO: u32 = 2;
const HYPERCALL: u32 = 3;
const DEBUG: u32 = 4;
const HLT: u32 = 5;
const MMIO: u32 = 6;
const SHUTDOWN: u32 = 8;
const INTR: u32 = 10;
const TPR_ACCESS: u32 = 12;
const SYSTEM_EVENT: u32 = 24;
const HYPERV: u32 = 27;
const BUS_LOCK: u32 = 33;
const XEN: u32 = 34;
const NOTIFY: u32 = 37;
const MEMORY_FAULT: u32 = 39;
const TDX: u32 = 40;

/// Arguments of KVM's hypercalls and of Xen's.
const ARGS: [&str; 6] = [
    "args[0]", "args[1]", "args[2]", "args[3]", "args[4]", "args[5]",
];
const PARAMS: [&str; 6] = [
    "params[0]",
    "params[1]",
    "params[2]",
    "params[3]",
    "params[4]",
    "params[5]",
];

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
    u32_at(head, REASON)
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
        HYPERCALL => {
            let mut all = vec![("nr", qword(32))];
            all.extend(
                ARGS.iter()
                    .zip(0..)
                    .map(|(name, i)| (*name, qword(40 + 8 * i))),
            );
            all.extend([("ret", qword(88)), ("flags", qword(96))]);
            all
        }
        DEBUG => vec![
            ("exception", dword(32)),
            ("pc", qword(40)),
            ("dr6", qword(48)),
            ("dr7", qword(56)),
        ],
        TPR_ACCESS => vec![("rip", qword(32)), ("is_write", dword(40))],
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
        SYSTEM_EVENT => {
            let mut all = vec![("type", dword(32)), ("ndata", dword(36))];
            let data = (0..u32_at(head, 36).min(16) as usize).map(|i| ("data", qword(40 + 8 * i)));
            all.extend(data);
            all
        }
        26 => vec![("vector", u64::from(head[32]))],
        29 | 30 => vec![
            ("reason", dword(40)),
            ("index", dword(44)),
            ("data", qword(48)),
        ],
        HYPERV => hyperv(head),
        XEN => {
            let mut all = vec![("type", dword(32)), ("longmode", dword(40))];
            all.extend([
                ("cpl", dword(44)),
                ("input", qword(48)),
                ("result", qword(56)),
            ]);
            all.extend(
                PARAMS
                    .iter()
                    .zip(0..)
                    .map(|(name, i)| (*name, qword(64 + 8 * i))),
            );
            all
        }
        NOTIFY => vec![("flags", dword(32))],
        MEMORY_FAULT => vec![
            ("flags", qword(32)),
            ("gpa", qword(40)),
            ("size", qword(48)),
        ],
        TDX => vec![
            ("flags", qword(32)),
            ("nr", qword(40)),
            ("ret", qword(48)),
            ("data", qword(56)),
            ("data", qword(64)),
            ("data", qword(72)),
            ("data", qword(80)),
            ("data", qword(88)),
        ],
        _ => Vec::new(),
    }
}

/// The fields of `struct kvm_hyperv_exit`, by its type.
fn hyperv(head: &[u8]) -> Vec<(&'static str, u64)> {
    let mut all = vec![("type", u64::from(u32_at(head, 32)))];
    let names: &[&str] = match u32_at(head, 32) {
        1 => &["msr", "control", "evt_page", "msg_page"],
        2 => &["input", "result", "params[0]", "params[1]"],
        3 => &[
            "msr",
            "control",
            "status",
            "send_page",
            "recv_page",
            "pending_page",
        ],
        _ => &[],
    };
    all.extend(
        names
            .iter()
            .zip(0..)
            .map(|(name, i)| (*name, u64_at(head, 40 + 8 * i))),
    );
    // The register's number has 32 bits, and padding behind them.
    let msr = all.iter_mut().filter(|(name, _)| *name == "msr");
    msr.for_each(|(_, value)| *value &= u64::from(u32::MAX));
    all
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

    /// The fields of an exit whose union has a number in each dword, from 0 on.
    fn counted(reason: u32) -> Vec<(&'static str, u64)> {
        let union: Vec<u8> = (0..36u32).flat_map(u32::to_le_bytes).collect();
        match Exit::parse(reason, &head(reason, &union)) {
            Exit::Other(_, fields) => fields,
            exit => panic!("{exit:?}"),
        }
    }

    /// The fields are where linux/kvm.h has them.
    #[test]
    fn fields_stand_where_the_kernel_has_them() {
        let two = |first: u64| first | (first + 1) << 32;
        let hypercall = counted(HYPERCALL);
        assert_eq!(hypercall.first(), Some(&("nr", two(0))));
        assert_eq!(
            hypercall[6..],
            [("args[5]", two(12)), ("ret", two(14)), ("flags", two(16))]
        );
        let debug = [
            ("exception", 0),
            ("pc", two(2)),
            ("dr6", two(4)),
            ("dr7", two(6)),
        ];
        assert_eq!(counted(DEBUG), debug);
        assert_eq!(counted(TPR_ACCESS), [("rip", two(0)), ("is_write", 2)]);
        let event = [("type", 0), ("ndata", 1), ("data", two(2))];
        assert_eq!(counted(SYSTEM_EVENT), event);
        let xen = counted(XEN);
        assert_eq!(xen[1..4], [("longmode", 2), ("cpl", 3), ("input", two(4))]);
        assert_eq!(xen.last(), Some(&("params[5]", two(18))));
        assert_eq!(counted(TDX)[1..3], [("nr", two(2)), ("ret", two(4))]);
        let synic = hyperv(&head(
            HYPERV,
            &[1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 5],
        ));
        assert_eq!(synic[..3], [("type", 1), ("msr", 7), ("control", 5)]);
        let call = hyperv(&head(HYPERV, &[2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9]));
        assert_eq!(call[1], ("input", 7 | 9 << 32));
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
