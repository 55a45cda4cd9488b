//! Runs scenarios as tests, for the test programs in integration/tests.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::bochs::Bochs;
use crate::debian::Root;
use crate::error::Error;
use crate::host;
use crate::kernel::Choice;
use crate::runner::{self, Passed};
use crate::scenario::{Class, Scenario};
use crate::setup::Lab;

/// Selects the scenarios of [`Class::Apart`], and no others.
const APART: &str = "--apart";

/// The machines that wait most of the time and run beside the others.
const WAITING: usize = 2;

/// So many scenarios make a whole run, in which one of them may be run once more.
const WHOLE: usize = 100;

/// Counts machines, and those among them that were started twice.
#[derive(Debug, Default)]
struct Count {
    machines: AtomicUsize,
    repeated: AtomicUsize,
}

/// The machines that may be busy at the same time.
#[derive(Debug)]
struct Cores {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Cores {
    fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count),
            freed: Condvar::new(),
        }
    }

    /// Waits for a core, and keeps the core until the result is dropped.
    fn take(&self) -> Core<'_> {
        let free = self.free.lock().expect("no thread panics with the lock");
        let mut free = self
            .freed
            .wait_while(free, |free| *free == 0)
            .expect("no thread panics with the lock");
        *free -= 1;
        Core(self)
    }
}

/// A core in use.
struct Core<'a>(&'a Cores);

impl Drop for Core<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().expect("no thread panics with the lock") += 1;
        self.0.freed.notify_one();
    }
}

/// What all trials share.
struct Suite {
    /// Whether the scenarios run that are apart, and no others.
    apart: bool,
    lab: Option<Lab>,
    count: Count,
    cores: Cores,
    /// Whether so many scenarios run that one of them may be run once more.
    whole: bool,
    /// The scenario that failed first, and how.
    unstable: OnceLock<String>,
}

/// Runs the scenarios that the command line selects. `threads` is the default of `--test-threads`.
/// So many machines are busy at the same time; those that wait most of the time begin first, and
/// run beside them.
pub fn run(mut scenarios: Vec<Scenario>, threads: usize) -> ExitCode {
    let (apart, rest): (Vec<_>, Vec<_>) = std::env::args().partition(|arg| arg == APART);
    let apart = !apart.is_empty();
    let mut args = Arguments::from_iter(rest);
    let busy = args.test_threads.unwrap_or(threads);
    args.test_threads.get_or_insert(threads + WAITING);
    args.ignored |= apart;
    scenarios.sort_by_key(|scenario| !scenario.waits);
    let (count, kernels, xsave, roots) = needs(&args, apart, &scenarios);
    let lab = (!args.list).then(|| {
        eprintln!("preparing the lab");
        let lab = Lab::prepare(&kernels, &roots);
        if xsave { lab.with_newer_qemu() } else { lab }
    });
    let suite = Arc::new(Suite {
        apart,
        lab,
        count: Count::default(),
        cores: Cores::new(busy),
        whole: count >= WHOLE,
        unstable: OnceLock::new(),
    });
    let trials = scenarios
        .into_iter()
        .filter(|scenario| !apart || scenario.class == Class::Apart)
        .map(|scenario| trial(scenario, suite.clone()))
        .collect();
    let conclusion = libtest_mimic::run(&args, trials);
    if let Some(unstable) = suite.unstable.get() {
        eprintln!("UNSTABLE {unstable}");
    }
    if let Err(error) = steady(&suite.count) {
        eprintln!("error: the lab is not steady: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Whether a scenario of this class runs.
fn selected(args: &Arguments, apart: bool, class: Class) -> bool {
    match class {
        Class::Quick => !apart && !args.ignored,
        Class::Slow => !apart && (args.include_ignored || args.ignored),
        Class::Apart => apart,
    }
}

/// The number of the scenarios that will run, their kernels, as getting a kernel may take a build
/// of minutes, whether one of the scenarios needs a newer QEMU, and their root file systems.
fn needs(
    args: &Arguments,
    apart: bool,
    scenarios: &[Scenario],
) -> (usize, Vec<Choice>, bool, Vec<Root>) {
    let named = |name: &str| match &args.filter {
        Some(filter) if args.exact => name == filter,
        Some(filter) => name.contains(filter),
        None => true,
    };
    let runs = |s: &&Scenario| named(s.name) && selected(args, apart, s.class);
    let wanted: Vec<_> = scenarios.iter().filter(runs).collect();
    let kernels: BTreeSet<Choice> = wanted.iter().map(|s| s.kernel).collect();
    let xsave = wanted.iter().any(|s| s.machine.xsave);
    let roots = wanted.iter().filter_map(|s| Some(s.machine.debian?.1));
    let roots: BTreeSet<Root> = roots.collect();
    let kernels = kernels.into_iter().collect();
    (wanted.len(), kernels, xsave, roots.into_iter().collect())
}

fn trial(scenario: Scenario, suite: Arc<Suite>) -> Trial {
    let other = scenario.class == Class::Apart && !suite.apart;
    let lab = suite.lab.as_ref().filter(|_| !other);
    let skip = lab.and_then(|lab| reason_to_skip(lab, &scenario));
    if let Some(reason) = &skip {
        eprintln!("SKIPPED {}: {reason}", scenario.name);
    }
    let ignored = scenario.class != Class::Quick || skip.is_some();
    Trial::ignorable_test(scenario.name, move || {
        if other {
            return Ok(Completion::ignored_with("`make lab-apart` runs it"));
        }
        if let Some(reason) = skip {
            return Ok(Completion::ignored_with(reason));
        }
        let lab = suite.lab.as_ref().ok_or("the lab was not prepared")?;
        let _core = (!scenario.waits).then(|| suite.cores.take());
        suite.count.machines.fetch_add(1, Ordering::Relaxed);
        let first = runner::run(&scenario, lab, &mut |_| ());
        let outcome = match first {
            Err(error) if suite.whole && is_first(&suite.unstable, scenario.name, &error) => {
                run_again(&scenario, lab, &error)
            }
            other => other,
        };
        match outcome {
            Ok(passed) => {
                eprintln!(
                    "  {} took {:.1} s",
                    scenario.name,
                    passed.took.as_secs_f64()
                );
                if passed.repeated {
                    suite.count.repeated.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Completion::Completed)
            }
            Err(error) => Err(Failed::from(error.to_string())),
        }
    })
    .with_ignored_flag(ignored)
}

/// Whether no scenario of this run has failed before.
fn is_first(unstable: &OnceLock<String>, name: &str, error: &Error) -> bool {
    let text = error.to_string();
    let mut lines = text.lines();
    let why = lines
        .rfind(|line| line.starts_with("error: "))
        .unwrap_or(&text);
    unstable
        .set(format!("{name} failed, and was run once more: {why}"))
        .is_ok()
}

/// Runs a scenario that failed once more. The emulated machine itself fails at times, in more ways
/// than the lab knows. So the first failure of a whole run is told, and its logs are kept; a second
/// failure of the same scenario, or of another one, fails the run.
fn run_again(scenario: &Scenario, lab: &Lab, error: &Error) -> Result<Passed, Error> {
    let kept = runner::keep_failed(scenario)?;
    eprintln!(
        "{error}\n  {} failed; the lab runs it once more, and keeps the logs in {}",
        scenario.name,
        kept.display()
    );
    runner::run(scenario, lab, &mut |_| ())
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
            let (_, root) = scenario.machine.debian?;
            lab.lacks(root).and_then(lacks)
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
            "{repeated} of {machines} machines had to be started twice, because L1 crashed, no \
             guest reached /init, or the emulator stood still"
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_command_runs_its_classes() {
        use Class::{Apart, Quick, Slow};
        let selected = |arguments: &[&str], apart| {
            let args = Arguments::from_iter([&["lab"], arguments].concat());
            [Quick, Slow, Apart].map(|class| selected(&args, apart, class))
        };
        assert_eq!(selected(&[], false), [true, false, false]);
        assert_eq!(selected(&["--include-ignored"], false), [true, true, false]);
        assert_eq!(selected(&["--ignored"], false), [false, true, false]);
        assert_eq!(selected(&["--ignored"], true), [false, false, true]);
    }

    #[test]
    fn one_scenario_of_a_whole_run_may_fail_once() {
        let unstable = OnceLock::new();
        let error = Error::failed("[1.0] Lab| exit 1\nerror: run 1 ended\nlog: x");
        assert!(is_first(&unstable, "one", &error));
        assert!(!is_first(&unstable, "one", &error));
        assert!(!is_first(&unstable, "two", &error));
        let told = unstable.get().unwrap();
        assert_eq!(
            told,
            "one failed, and was run once more: error: run 1 ended"
        );
    }

    #[test]
    fn a_busy_machine_waits_for_a_core() {
        let cores = Cores::new(2);
        let (first, second) = (cores.take(), cores.take());
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let third = cores.take();
                sender.send(()).unwrap();
                drop(third);
            });
            let early = receiver.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err());
            drop(second);
            receiver.recv_timeout(Duration::from_secs(20)).unwrap();
        });
        drop(first);
        assert_eq!(*cores.free.lock().unwrap(), 2);
    }
}
