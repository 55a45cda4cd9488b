//! The lab's scenarios as tests: `cargo test -p lab` lists, filters and reports them.
//! Without what the lab needs they are skipped, with the reason; MINI_VMM_REQUIRE=1 makes that fail.

mod affinity;
mod bind;
mod both;
mod devices;
mod disks;
mod displays;
mod explain;
mod faults;
mod groups;
mod host;
mod life;
mod managed;
mod mediated;
mod messages;
mod refusals;
mod requests;
mod resets;
mod start;
mod topology;
mod virtual_functions;

use std::iter;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lab::Error;
use lab::kernel::Choice;
use lab::scenario::{Lab, Scenario};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A machine has one CPU, and two cores carry two of them; `--test-threads` says otherwise.
const THREADS: usize = 2;

/// Machines started once more, of machines started.
#[derive(Debug, Default)]
struct Repeats {
    scenarios: AtomicUsize,
    repeats: AtomicUsize,
}

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(THREADS);
    let quick: Vec<Scenario> = disks::all()
        .into_iter()
        .chain(affinity::all())
        .chain(bind::all())
        .chain(managed::all())
        .chain(devices::all())
        .chain(displays::all())
        .chain(groups::all())
        .chain(explain::all())
        .chain(host::all())
        .chain(life::all())
        .chain(mediated::all())
        .chain(messages::all())
        .chain(requests::all())
        .chain(faults::all())
        .chain(resets::all())
        .chain(start::all())
        .chain(topology::all())
        .chain(refusals::all())
        .chain(virtual_functions::all())
        .collect();
    // Scenarios of over a minute are left to `make test-all`, which is `-- --include-ignored` here.
    let slow: Vec<Scenario> = life::slow();
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
    let repeats = Arc::new(Repeats::default());
    let trials: Vec<Trial> = [(quick, false), (slow, true)]
        .into_iter()
        .flat_map(|(scenarios, slow)| scenarios.into_iter().zip(iter::repeat(slow)))
        .map(|(scenario, slow)| trial(scenario, slow, lab.clone(), repeats.clone()))
        .collect();
    let conclusion = libtest_mimic::run(&args, trials);
    if let Err(error) = steady(&repeats) {
        eprintln!("error: the lab is not steady: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trial(scenario: Scenario, slow: bool, lab: Option<Arc<Lab>>, repeats: Arc<Repeats>) -> Trial {
    let skip = lab
        .as_deref()
        .and_then(|lab| reason_to_skip(lab, &scenario));
    if let Some(reason) = &skip {
        eprintln!("SKIPPED {}: {reason}", scenario.name);
    }
    let ignored = slow || skip.is_some();
    Trial::ignorable_test(scenario.name, move || {
        if let Some(reason) = skip {
            return Ok(Completion::ignored_with(reason));
        }
        let lab = lab.ok_or("the lab was not prepared")?;
        repeats.scenarios.fetch_add(1, Ordering::Relaxed);
        match scenario.run(&lab, &mut |_| ()) {
            Ok(passed) => {
                eprintln!(
                    "  {} took {:.1} s",
                    scenario.name,
                    passed.took.as_secs_f64()
                );
                if passed.repeated {
                    repeats.repeats.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Completion::Completed)
            }
            Err(error) => Err(Failed::from(error.to_string())),
        }
    })
    .with_ignored_flag(ignored)
}

/// Only what the machine lacks is a reason to skip; a mini-vmm that does not build is a failure.
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

/// More than one repeat in twenty machines is a fault of ours.
fn steady(counts: &Repeats) -> Result<(), String> {
    let scenarios = counts.scenarios.load(Ordering::Relaxed);
    let repeats = counts.repeats.load(Ordering::Relaxed);
    if repeats <= scenarios.div_ceil(20) {
        Ok(())
    } else {
        Err(format!(
            "{repeats} of {scenarios} machines had to be started twice: they broke down themselves, or \
             no guest reached /init"
        ))
    }
}
