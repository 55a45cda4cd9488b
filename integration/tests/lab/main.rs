//! The lab's scenarios as tests: `cargo test -p lab` lists, filters and reports them. A test whose
//! requirements are missing is skipped with the reason; MINI_VMM_REQUIRE=1 turns that into a
//! failure.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lab::Error;
use lab::kernel::Choice;
use lab::runner;
use lab::scenario::Scenario;
use lab::setup::Lab;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Declares the files of scenarios; each has a function `all` that returns its list.
macro_rules! scenarios {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*

        fn all() -> Vec<Scenario> {
            [$($file::all()),*].into_iter().flatten().collect()
        }
    };
}

scenarios![
    disks,
    affinity,
    bind,
    managed,
    devices,
    displays,
    groups,
    explain,
    host,
    life,
    mediated,
    messages,
    parameters,
    requests,
    faults,
    resets,
    start,
    topology,
    many_cpus,
    refusals,
    errnos,
    confined,
    virtual_functions,
];

/// The default of `--test-threads`: two machines of one CPU each keep two cores busy.
const THREADS: usize = 2;

/// Counts machines, and those among them that were started twice.
#[derive(Debug, Default)]
struct Count {
    machines: AtomicUsize,
    repeated: AtomicUsize,
}

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(THREADS);
    let lab = if args.list {
        None
    } else {
        eprintln!("preparing the lab");
        Some(Arc::new(Lab::prepare(&[
            Choice::Stock,
            Choice::Newest,
            Choice::Lab,
        ])))
    };
    let count = Arc::new(Count::default());
    let trials = all()
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
    if lab::host::required() {
        return None;
    }
    let lacks = |error: Error| match error {
        Error::CannotRun { .. } => Some(error.to_string().replace('\n', " ")),
        Error::Failed(_) => None,
    };
    lab.host
        .as_ref()
        .err()
        .cloned()
        .and_then(lacks)
        .or_else(|| lab.kernel(scenario.kernel).err().and_then(lacks))
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
