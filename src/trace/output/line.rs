//! Parts of lines: accesses, exits, errnos.

use crate::decode::calls::Why;
use crate::event::{Happened, Left, Names};
use crate::guest::access::{Access, Space};
use crate::guest::run_page::{Exit, reason_name};
use crate::guest::vm::Meaning;
use crate::output::{errno_names, fields};
use crate::purposes;

/// `out`, `in`, `store` or `load`.
pub fn verb(space: Space, write: bool) -> &'static str {
    match (space, write) {
        (Space::Port, true) => "out",
        (Space::Port, false) => "in",
        (Space::Memory, true) => "store",
        (Space::Memory, false) => "load",
    }
}

/// Why KVM_RUN has returned.
pub fn exited(left: &Left) -> String {
    match (&left.exit, left.result) {
        (Some(Exit::Access(access, _)), _) => accessed(access, &left.meaning),
        (Some(Exit::Other(reason, fields)), _) => {
            let name = reason_name(*reason);
            let mut text = name.map_or_else(|| format!("exit {reason:#x}"), String::from);
            for (name, value) in fields {
                text += &format!(" {name}={value:#x}");
            }
            text
        }
        (None, Some(result)) if result < 0 => format!("KVM_RUN = {}", errno(result)),
        (None, Some(result)) => format!("KVM_RUN = {result} (the exit cannot be read)"),
        (None, None) => "KVM_RUN = ? (the kernel has not recorded its return)".into(),
    }
}

/// What a return of KVM_RUN is for, with the specification of the register.
pub fn purpose(left: &Left) -> (Why, Option<&'static str>) {
    let (reason, write) = match &left.exit {
        Some(Exit::Access(access, _)) => {
            let reason = match access.register.space {
                Space::Port => "KVM_EXIT_IO",
                Space::Memory => "KVM_EXIT_MMIO",
            };
            (Some(reason), access.register.write)
        }
        Some(Exit::Other(reason, _)) => (reason_name(*reason).or(Some("")), false),
        None => (None, false),
    };
    (
        purposes::of_exit(reason, write),
        left.access().and(left.meaning.document),
    )
}

/// `Documentation/virt/kvm/api.rst 5; PCI Express 6.0, 7.5.1`.
pub fn document(why: Why, section: Option<&str>) -> String {
    match section {
        Some(section) => format!("{}; {section}", why.document),
        None => why.document.into(),
    }
}

/// `out cfc.4  00:03.0 BAR0 ← ffffffff (sizing)`.
pub fn accessed(access: &Access, meaning: &Meaning) -> String {
    let verb = verb(access.register.space, access.register.write);
    let mut text = format!("{verb} {:x}.{}", access.register.address, access.width);
    if access.count != 1 {
        text += &format!(" ×{}", access.count);
    }
    if let Some(label) = meaning.label() {
        text += &format!("  {label}");
    }
    let arrow = if access.register.write { '←' } else { '→' };
    text += &match (access.count, access.value()) {
        (1, Some(value)) => {
            format!(" {arrow} {value:0w$x}", w = usize::from(access.width) * 2)
        }
        _ if access.data.is_empty() => format!(" {arrow} ?"),
        _ => {
            let bytes: String = access.data.iter().map(|b| format!("{b:02x}")).collect();
            let more = access.len() > access.data.len() as u64;
            format!(" {arrow} {bytes}{}", if more { "…" } else { "" })
        }
    };
    if let Some(note) = &meaning.note {
        text += &format!(" ({note})");
    }
    text
}

/// `kvm_inj_virq {vector=33, …}`.
pub fn kernel(happened: &Happened) -> String {
    let fields = fields::text(&happened.fields, &Names::default(), false);
    format!("{} {{{fields}}}", happened.name)
}

/// `-1 EINTR (Interrupted system call)`.
pub fn errno(result: i64) -> String {
    let number = i32::try_from(-result).unwrap_or(0);
    let text = std::io::Error::from_raw_os_error(number).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match errno_names::name(number) {
        Some(name) => format!("-1 {name} ({text})"),
        None => format!("-1 errno {number} ({text})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::access::Register;

    #[test]
    fn accesses() {
        let mut access = Access {
            register: Register {
                space: Space::Port,
                address: 0xcfc,
                write: true,
            },
            width: 4,
            count: 1,
            data: vec![0xff; 4],
        };
        let meaning = Meaning {
            function: Some("00:03.0".into()),
            register: Some("BAR0".into()),
            note: Some("sizing".into()),
            document: None,
        };
        let line = "out cfc.4  00:03.0 BAR0 ← ffffffff (sizing)";
        assert_eq!(accessed(&access, &meaning), line);
        access.count = 20;
        let none = Meaning::default();
        assert_eq!(accessed(&access, &none), "out cfc.4 ×20 ← ffffffff…");
        access.register.write = false;
        access.data.clear();
        assert_eq!(accessed(&access, &none), "in cfc.4 ×20 → ?");
        assert_eq!(errno(-4), "-1 EINTR (Interrupted system call)");
    }
}
