//! The lab's scenarios as tests: `cargo test -p lab` lists, filters and reports them. A test whose
//! requirements are missing is skipped with the reason; MINI_VMM_REQUIRE=1 turns that into a
//! failure.

use std::process::ExitCode;

use lab::scenario::Scenario;
use lab::suite;

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
    bench,
    bench_devices,
    bench_ends,
    bench_kills,
    bench_modules,
    bench_ports,
    bench_raid,
    bench_truth,
    bench_writes,
    bind,
    containers,
    managed,
    devices,
    displays,
    given,
    groups,
    endless_resets,
    endpoints,
    explain,
    host,
    hot_plug,
    hot_plug_faults,
    hot_plug_hosts,
    life,
    memory_errors,
    mediated,
    mechanisms,
    messages,
    parameters,
    opening,
    opening_killed,
    paused,
    power_button,
    requests,
    faults,
    peers,
    persist,
    ports,
    resets,
    run_as,
    sandbox,
    service,
    slurm,
    soak,
    start,
    start_cost,
    windows,
    topology,
    traced,
    many_cpus,
    refusals,
    errnos,
    every_call,
    kernel_events,
    confined,
    virtual_functions,
    ways,
    network_functions,
    waiting,
    processor,
];

/// Two machines of one CPU each keep two cores busy.
const THREADS: usize = 2;

fn main() -> ExitCode {
    suite::run(all(), THREADS)
}
