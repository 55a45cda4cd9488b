//! The policy against a list of its own of what is the host's: any layout of capabilities, any
//! accesses. tests/fuzz has the same check with a fuzzer.

#[path = "../common/any_layout.rs"]
mod any_layout;
#[path = "../common/host_owned.rs"]
mod host_owned;

use pci::capability::{ext_id, id};
use pci::passed::Bits;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vmm::vfio::function::policy::rule::{CapabilityRule, Register, Treatment};
use vmm::vfio::function::policy::{POLICY, Policy};

/// Runs the check on many inputs, the same in each run.
fn run(policy: Policy) -> Result<(), String> {
    let config = Config {
        cases: 256,
        max_shrink_iters: 64,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let input = prop::collection::vec(any::<u8>(), 4..200);
    let result = runner.run(&input, |input| {
        any_layout::check(&policy, &input).map_err(TestCaseError::fail)
    });
    result.map_err(|e| e.to_string())
}

/// The table with one register passed as a whole.
fn with_passed(
    table: &'static [CapabilityRule],
    id: u16,
    offset: u16,
) -> &'static [CapabilityRule] {
    let mut table = table.to_vec();
    let rule = table.iter_mut().find(|rule| rule.id == id).unwrap();
    rule.registers = passed(rule.registers, offset);
    table.leak()
}

fn passed(registers: &[Register], offset: u16) -> &'static [Register] {
    changed(registers, offset, |register| {
        register.treatment = Treatment::Pass(Bits::GUEST);
    })
}

fn changed(
    registers: &[Register],
    offset: u16,
    change: impl Fn(&mut Register),
) -> &'static [Register] {
    let mut registers = registers.to_vec();
    change(registers.iter_mut().find(|r| r.offset == offset).unwrap());
    registers.leak()
}

/// The policy with one register of the PCI Express capability changed.
fn with_express(offset: u16, change: impl Fn(&mut Register)) -> Policy {
    let mut table = POLICY.standard.to_vec();
    let rule = table.iter_mut().find(|rule| rule.id == id::PCIE).unwrap();
    rule.registers = changed(rule.registers, offset, change);
    let standard = table.leak();
    Policy { standard, ..POLICY }
}

#[test]
fn nothing_of_the_hosts_reaches_a_device() {
    run(POLICY).unwrap();
}

#[test]
fn a_mask_of_errors_that_passes_is_found() {
    let extended = with_passed(POLICY.extended, ext_id::AER, 0x14);
    let found = run(Policy { extended, ..POLICY }).unwrap_err();
    assert!(found.contains("extended 0x1 + 0x14 gets"), "{found}");
}

#[test]
fn an_atomic_op_enable_that_passes_is_found() {
    let standard = with_passed(POLICY.standard, id::PCIE, 0x28);
    let found = run(Policy { standard, ..POLICY }).unwrap_err();
    let names = ["standard 0x10 + 0x28 ", "AtomicOp requests "];
    assert!(names.iter().any(|name| found.contains(name)), "{found}");
    // The one bit alone is found too.
    let found = run(with_express(0x28, |register| {
        register.treatment = Treatment::Pass(Bits {
            guest: 0x035f,
            cleared: 0,
            concealed: 0x40,
        });
    }));
    let found = found.unwrap_err();
    assert!(found.contains("AtomicOp requests gets"), "{found}");
}

/// Link Control and Link Control 2 that pass behind a root port, and Slot Control, for which there
/// is no row.
#[test]
fn a_control_of_the_link_or_the_slot_that_passes_is_found() {
    for offset in [0x10, 0x18, 0x30] {
        // Where there is no row, Link Status becomes one.
        let row = if offset == 0x18 { 0x12 } else { offset };
        let wrong = with_express(row, |register| {
            register.offset = offset;
            let (_, reason) = register.at(true);
            register.behind_port = Some((Treatment::Pass(Bits::GUEST), reason));
        });
        let found = run(wrong).unwrap_err();
        let name = format!("standard 0x10 + {offset:#x} gets");
        assert!(found.contains(&name), "{found}");
    }
}

#[test]
fn a_status_of_the_link_that_passes_is_found() {
    let wrong = with_express(0x12, |register| {
        register.behind_port = Some((Treatment::Pass(Bits::GUEST), "wrong"));
    });
    let found = run(wrong).unwrap_err();
    assert!(found.contains("standard 0x10 + 0x12 gets"), "{found}");
}

#[test]
fn an_opregion_address_that_passes_is_found() {
    let igd = passed(POLICY.igd, 0xfc);
    let found = run(Policy { igd, ..POLICY }).unwrap_err();
    assert!(found.contains("GPU 0xfc shows"), "{found}");
}

#[test]
fn a_serr_enable_that_passes_is_found() {
    let header = passed(POLICY.header, 0x04);
    let found = run(Policy { header, ..POLICY }).unwrap_err();
    assert!(found.contains("header gets"), "{found}");
}
