//! What a function shows behind a root port of the guest.

use lab::Result;
use lab::disk::{Controller, Disk};
use lab::expect::{expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::Run;

/// The host's address of a disk that is an endpoint at the end of a link.
const ENDPOINT: &str = "0000:01:00.0";
const DISK: Disk = Disk::behind("endpoint", 0, Controller::NvmeBehindPort);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("the_link_is_the_hosts")
            .disk_with(DISK, ",port=on")
            .l1(format!("say_link {ENDPOINT}"))
            .by_each_interface(|_| "".into())
            .check(|outcome| {
                for index in [0, 1] {
                    same_link(outcome, &run(outcome, index)?, ENDPOINT, ENDPOINT)?;
                }
                Ok(())
            }),
    ]
}

/// Expects that a function of the guest and the port above it have the link that a function of the
/// host has now, and the function also what that link has at most.
pub fn same_link(outcome: &Outcome, run: &Run<'_>, host: &str, in_guest: &str) -> Result<()> {
    let hosts = of(outcome.transcript.lab("link"), host);
    let device = of(run.guest("link"), in_guest);
    expect(hosts.contains(" GT/s") && device == hosts, || {
        format!("the guest's {in_guest} has the link \"{device}\", the host's {host} \"{hosts}\"")
    })?;
    let port = of(run.guest("above"), in_guest);
    let ports = of(run.guest("link"), &port);
    let now = |link: &str| link.split(" of ").next().unwrap_or_default().to_owned();
    expect(now(&ports) == now(&hosts), || {
        format!("the port {port} has the link \"{ports}\", the host has \"{hosts}\"")
    })
}

/// The fact about a function.
fn of<'a>(mut facts: impl Iterator<Item = &'a str>, name: &str) -> String {
    let found = facts.find_map(|fact| fact.strip_prefix(name));
    found.unwrap_or("none").trim().to_owned()
}
