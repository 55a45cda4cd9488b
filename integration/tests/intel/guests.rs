//! The tiny guests of tests/guests on VMX and EPT, with CPUs that take turns: two CPUs after each
//! instruction, two after each five, and three after each five. Each test is a process of its own
//! in L1.

use std::collections::BTreeSet;

use lab::Result;
use lab::bochs::{Bochs, ICE_LAKE, Slice};
use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{number, value};

/// Seconds of L1's clock that a test may take. That clock counts instructions, so a busy host does
/// not matter.
const LIMIT: u32 = 30;

/// The modules that two CPUs run in `make lab-intel`: interrupts, races for configuration space and
/// the BARs, resets, the serial port, several vCPUs.
const SOME: [&str; 13] = [
    "life",
    "bars",
    "msi",
    "msix",
    "pin",
    "storm",
    "switch",
    "switches",
    "function_reset",
    "resets",
    "race",
    "topology",
    "waiting",
];

/// The modules that three CPUs run: those with several vCPUs, or with threads of mini-vmm beside
/// the vCPUs.
const SEVERAL: [&str; 7] = [
    "pin",
    "storm",
    "switch",
    "function_reset",
    "resets",
    "race",
    "topology",
];

/// Tests that do not run here, each with its reason.
const LEFT_OUT: [(&str, &str); 2] = [
    (
        "large_ram::first_and_last_bytes_of_1_1_tib",
        "KVM's tables for it take 3 GiB, and L1 has one",
    ),
    (
        "topology::the_last_of_255_has_interrupts",
        "255 vCPUs spin on the few CPUs of L1: not done after minutes of Bochs' time",
    ),
];

pub fn all() -> Vec<Scenario> {
    let some = [
        tests("some_tiny_guests_in_turns_of_1", 2, Slice::One, &SOME),
        tests("some_tiny_guests_in_turns_of_5", 2, Slice::Five, &SOME),
        tests("some_tiny_guests_on_3_cpus", 3, Slice::Five, &SEVERAL),
    ];
    let whole = [
        tests("all_tiny_guests_in_turns_of_1", 2, Slice::One, &[]),
        tests("all_tiny_guests_in_turns_of_5", 2, Slice::Five, &[]),
    ];
    some.into_iter().chain(whole.map(Scenario::slow)).collect()
}

/// Runs the tests of these modules, or of all modules.
fn tests(
    name: &'static str,
    cpus: u32,
    slice: Slice,
    modules: &'static [&'static str],
) -> Scenario {
    let wanted = match modules {
        [] => String::new(),
        some => format!(" | grep -E '^({})::'", some.join("|")),
    };
    let left_out: Vec<_> = LEFT_OUT.iter().map(|(test, _)| *test).collect();
    let script = format!(
        "
guests --list >/tmp/list
sed -n 's/: test$//p' /tmp/list{wanted} >/tmp/names
say \"tests $(wc -l </tmp/names)\"
for name in $(cat /tmp/names); do
	case ' {} ' in *\" $name \"*) say \"left-out $name\"; continue ;; esac
	began=$(milliseconds)
	status=0
	MINI_VMM_REQUIRE=1 timeout -s KILL {LIMIT} guests --exact --test-threads 1 $name \\
		>/tmp/output 2>&1 || status=$?
	grep -q '^test result: ok. 1 passed' /tmp/output || [ $status != 0 ] || status=ignored
	say \"test $name status=$status ms=$(($(milliseconds) - began))\"
	if ! grep -q '^test result: ok. 1 passed' /tmp/output || grep -q SKIPPED /tmp/output; then
		sed 's/^/LAB: output /' /tmp/output
	fi
done
",
        left_out.join(" ")
    );
    Scenario::new(name)
        .limit(3600)
        .tiny_guests()
        .machine(|machine| {
            machine.bochs = Some(Bochs {
                cpus,
                slice,
                ..Bochs::with_vmx(ICE_LAKE)
            });
        })
        .script(script, move |outcome| passed(outcome, modules.is_empty()))
}

/// Every test passed in time, or is left out by its name. If `all` tests were listed, each name of
/// [`LEFT_OUT`] is that of a test.
fn passed(outcome: &Outcome, all: bool) -> Result<()> {
    let lab = &outcome.transcript;
    let ran: Vec<_> = lab.lab("test").collect();
    let left_out: BTreeSet<_> = lab.lab("left-out").collect();
    let failed: Vec<_> = ran
        .iter()
        .filter(|test| number(test, "status") != Some(0))
        .collect();
    expect(failed.is_empty(), || {
        format!(
            "{} of {} tests failed: {failed:#?}",
            failed.len(),
            ran.len()
        )
    })?;
    let listed = lab.lab("tests").next().and_then(|n| n.parse().ok());
    expect(
        listed == Some(ran.len() + left_out.len()) && ran.len() > 20,
        || format!("of {listed:?} tests, {} ran", ran.len()),
    )?;
    expect(!all || left_out.len() == LEFT_OUT.len(), || {
        format!("only {left_out:?} are left out")
    })?;
    for (test, reason) in LEFT_OUT {
        if left_out.contains(test) {
            println!("  {test} is left out: {reason}");
        }
    }
    let slowest = ran.iter().max_by_key(|test| number(test, "ms"));
    println!(
        "  {} tests; {} ms of L1's time for the slowest: {}",
        ran.len(),
        slowest.and_then(|test| value(test, "ms")).unwrap_or("?"),
        slowest
            .and_then(|test| test.split(' ').next())
            .unwrap_or("?")
    );
    Ok(())
}
