//! docs/ownership.md has the policy's tables.

use std::fmt::Write;
use std::fs;

use pci::passed::Bits;
use vmm::vfio::function::policy::POLICY;
use vmm::vfio::function::policy::extended::CXL;
use vmm::vfio::function::policy::rule::{CapabilityRule, Register, Treatment};

use crate::metadata::root;

const MADE: &str = "<!-- made by tests/house/ownership.rs -->\n";
const HEAD: &str = "| at | register | owner | why |\n| --- | --- | --- | --- |\n";
/// The head of a table whose registers may differ behind a root port.
const HEAD_BOTH: &str = "| at | register | owner | why | behind a root port |\n\
                         | --- | --- | --- | --- | --- |\n";

fn owner(treatment: Treatment) -> String {
    let bits = match treatment {
        Treatment::Emulate => return "mini-vmm answers".into(),
        Treatment::Hide => return "hidden".into(),
        Treatment::Pass(Bits::GUEST) => return "the guest".into(),
        Treatment::Pass(Bits::READ_ONLY) => return "the host; can be read".into(),
        Treatment::Pass(bits) => bits,
    };
    let mut text = format!("the guest: {:#x}; the host: all others", bits.guest);
    if bits.cleared != 0 {
        let _ = write!(text, ", of which a write carries {:#x} as 0", bits.cleared);
    }
    if bits.concealed != 0 {
        let _ = write!(text, "; {:#x} reads as 0", bits.concealed);
    }
    text
}

fn rows(base: &str, registers: &[Register]) -> String {
    let row = |r: &Register| {
        let owner = owner(r.treatment);
        format!(
            "| {base}{:#04x} | {} | {owner} | {} |\n",
            r.offset, r.name, r.reason
        )
    };
    registers.iter().map(row).collect()
}

/// A row's last cell: what differs behind a root port, and why.
fn behind(register: &Register) -> String {
    let Some((treatment, reason)) = register.behind_port else {
        return "the same".into();
    };
    match treatment == register.treatment {
        true => format!("the same owner: {reason}"),
        false => format!("{}: {reason}", self::owner(treatment)),
    }
}

/// The rows of a table with that cell.
fn rows_of_both(base: &str, registers: &[Register]) -> String {
    let rows = registers.iter().map(|register| {
        let row = rows(base, std::slice::from_ref(register));
        let row = row.trim_end();
        format!("{row} {} |\n", behind(register))
    });
    rows.collect()
}

fn capabilities(table: &[CapabilityRule]) -> String {
    let row = |rule: &CapabilityRule| {
        let (id, name) = (format!("{:#04x}", rule.id), rule.name);
        let what = match rule.registers.is_empty() {
            true => format!("**{name}**"),
            false => format!("**{name}**, other registers"),
        };
        let owner = owner(rule.treatment);
        let base = format!("{id} + ");
        let row = format!("| {id} | {what} | {owner} | {} | the same |\n", rule.reason);
        row + &rows_of_both(&base, rule.registers)
    };
    table.iter().map(row).collect()
}

fn tables() -> String {
    let extended = capabilities(POLICY.extended) + &capabilities(&[CXL]);
    let igd = "Intel's integrated GPU, register by register";
    let parts = [
        ("The header", HEAD_BOTH, rows_of_both("", POLICY.header)),
        (
            "Standard capabilities",
            HEAD_BOTH,
            capabilities(POLICY.standard),
        ),
        ("Extended capabilities", HEAD_BOTH, extended),
        (igd, HEAD, rows("", POLICY.igd)),
    ];
    let mut text = String::new();
    for (title, head, rows) in parts {
        let _ = write!(text, "\n## {title}\n\n{head}{rows}");
    }
    text
}

#[test]
fn the_document_has_the_tables() {
    let path = root().join("docs/ownership.md");
    let document = fs::read_to_string(&path).unwrap();
    let (prose, found) = document.split_once(MADE).expect("the mark");
    let wanted = tables();
    if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
        fs::write(&path, format!("{prose}{MADE}{wanted}")).unwrap();
        return;
    }
    for (found, wanted) in found.lines().zip(wanted.lines()) {
        assert_eq!(found, wanted, "BLESS=1 writes docs/ownership.md anew");
    }
    assert_eq!(found.len(), wanted.len(), "BLESS=1 writes it anew");
}
