//! Runs scenarios as tests, for the test programs in integration/tests.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::bochs::Bochs;
use crate::error::Error;
use crate::host;
use crate::kernel::Choice;
use crate::runner;
use crate::scenario::Scenario;
use crate::setup::Lab;

/// Counts machines, and those among them that were started twice.
#[derive(Debug, Default)]
struct Count {
    machines: AtomicUsize,
    repeated: AtomicUsize,
}

/// Runs the scenarios that the command line selects. `threads` is the default of
/// `--test-threads`.
pub fn run(scenarios: Vec<Scenario>, threads: usize) -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(threads);
    let (kernels, xsave, debian) = needs(&args, &scenarios);
    let lab = if args.list {
        None
    } else {
        eprintln!("preparing the lab");
        let lab = Lab::prepare(&kernels, debian);
        Some(Arc::new(if xsave { lab.with_newer_qemu() } else { lab }))
    };
    let count = Arc::new(Count::default());
    let trials = scenarios
        .into_iter()
        .map(|scenario| trial(scenario, lab.clone(), count.clone()))
        .collect();
    let conclusion = libtest_mimic::run(&args, trials);
    if let Err(error) = steady(&count) {
        eprintln!("error: the lab is not steady: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// The kernels of the scenarios that will run, as getting a kernel may take a build of minutes,
/// and whether one of the scenarios needs a newer QEMU, or Debian's root file system.
fn needs(args: &Arguments, scenarios: &[Scenario]) -> (Vec<Choice>, bool, bool) {
    let named = |name: &str| match &args.filter {
        Some(filter) if args.exact => name == filter,
        Some(filter) => name.contains(filter),
        None => true,
    };
    let runs = |s: &&Scenario| named(s.name) && (!s.slow || args.include_ignored || args.ignored);
    let wanted: Vec<_> = scenarios.iter().filter(runs).collect();
    let kernels: BTreeSet<Choice> = wanted.iter().map(|s| s.kernel).collect();
    let xsave = wanted.iter().any(|s| s.machine.xsave);
    let debian = wanted.iter().any(|s| s.machine.debian.is_some());
    (kernels.into_iter().collect(), xsave, debian)
}

fn trial(scenario: Scenario, lab: Option<Arc<Lab>>, count: Arc<Count>) -> Trial {
    let skip = lab
        .as_deref()
        .and_then(|lab| reason_to_skip(lab, &scenario));
    if let Some(reason) = &skip {
        eprintln!("SKIPPED {}: {reason}", scenario.name);
    }
    let ignored = scenario.slow || skip.is_some();
    Trial::ignorable_test(scenario.name, move || {
        if let Some(reason) = skip {
            return Ok(Completion::ignored_with(reason));
        }
        let lab = lab.ok_or("the lab was not prepared")?;
        count.machines.fetch_add(1, Ordering::Relaxed);
        match runner::run(&scenario, &lab, &mut |_| ()) {
            Ok(passed) => {
                eprintln!(
                    "  {} took {:.1} s",
                    scenario.name,
                    passed.took.as_secs_f64()
                );
                if passed.repeated {
                    count.repeated.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Completion::Completed)
            }
            Err(error) => Err(Failed::from(error.to_string())),
        }
    })
    .with_ignored_flag(ignored)
}

/// Only a missing requirement of the host is a reason to skip. If mini-vmm does not build, the test
/// fails.
fn reason_to_skip(lab: &Lab, scenario: &Scenario) -> Option<String> {
    if host::required() {
        return None;
    }
    let lacks = |error: Error| match error {
        Error::CannotRun { .. } => Some(error.to_string().replace('\n', " ")),
        Error::Failed(_) => None,
    };
    lab.host(&scenario.machine)
        .err()
        .and_then(lacks)
        .or_else(|| lab.kernel(scenario.kernel).err().and_then(lacks))
        .or_else(|| {
            let debian = scenario.machine.debian.is_some();
            debian.then(|| lab.debian.clone())?.err().and_then(lacks)
        })
        .or_else(|| {
            let bochs = scenario.machine.bochs.is_some();
            bochs.then(Bochs::find)?.err().and_then(lacks)
        })
}

/// The emulator fails in fewer than one of twenty machines; more failures are mini-vmm's fault.
fn steady(count: &Count) -> Result<(), String> {
    let machines = count.machines.load(Ordering::Relaxed);
    let repeated = count.repeated.load(Ordering::Relaxed);
    if repeated <= machines.div_ceil(20) {
        Ok(())
    } else {
        Err(format!(
            "{repeated} of {machines} machines had to be started twice, because L1 crashed or no \
             guest reached /init"
        ))
    }
}
