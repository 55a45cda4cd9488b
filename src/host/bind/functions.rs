//! `host bind --vfs N`: makes virtual functions of a device and binds these functions.

use std::fs;

use crate::bind::apply::driver_for;
use crate::bind::error::BindError;
use crate::bind::facts::Facts;
use crate::bind::host::Host;
use crate::bind::recover::check_owner;
use crate::bind::request::BindRequest;
use crate::bind::transaction::Transaction;
use crate::bind::user::User;
use crate::bind::{messages, plan};

pub(super) fn make_functions(
    host: &Host,
    request: &BindRequest,
    named: &[Facts],
    count: u32,
    user: Option<&User>,
) -> Result<Vec<String>, BindError> {
    for facts in named {
        let bdf = facts.bdf();
        match facts.functions {
            None => return Err(BindError::NoFunctions(bdf)),
            Some(f) if f.made > 0 => return Err(BindError::HasFunctions { bdf, made: f.made }),
            Some(f) if count > f.most => {
                return Err(BindError::TooManyFunctions {
                    bdf,
                    most: f.most,
                    asked: count,
                });
            }
            Some(_) => check_owner(host, facts, request.owner)?,
        }
    }
    if request.dry_run {
        let drivers = named.iter().map(|f| host.choose(&f.functions_modalias()));
        let drivers: Vec<_> = drivers.collect();
        let steps = named
            .iter()
            .zip(&drivers)
            .flat_map(|(facts, driver)| plan::make_functions(facts, count, driver, user));
        let steps: Vec<_> = steps.collect();
        return Ok(messages::dry_run(host, &drivers, &steps));
    }
    let drivers = named
        .iter()
        .map(|facts| driver_for(host, facts.bdf(), &facts.functions_modalias()));
    let drivers = drivers.collect::<Result<Vec<_>, _>>()?;
    let bdfs = named.iter().map(Facts::bdf);
    let mut transaction = Transaction::begin(host, request.owner, user, bdfs)?;
    for (facts, driver) in named.iter().zip(&drivers) {
        if let Err(e) = transaction.make_functions(facts, count, driver) {
            return Err(transaction.undo(e));
        }
    }
    let records = transaction.end()?;
    let mut lines: Vec<_> = records.iter().map(messages::function).collect();
    lines.extend(named.iter().flat_map(|facts| addresses(facts, count)));
    lines.extend(user.map_or(Vec::new(), |user| {
        messages::about_user(host, &records, user)
    }));
    Ok(lines)
}

/// How to give the virtual functions of a network card their addresses. Many drivers leave an
/// address of zeros, with which a guest takes a random one at each boot, or none.
fn addresses(facts: &Facts, count: u32) -> Vec<String> {
    // A device that is no network card has no such directory.
    let interfaces = fs::read_dir(facts.device.path.join("net")).into_iter();
    let names = interfaces.flatten().flatten();
    let last = count.saturating_sub(1);
    let line = |name: &str| {
        format!(
            "note: set the address of each function before a run, as root: ip link set {name} vf N \
             mac 02:00:00:00:00:01 (N is 0 to {last})"
        )
    };
    let mut lines: Vec<_> = names
        .filter_map(|entry| Some(line(entry.file_name().to_str()?)))
        .collect();
    lines.sort();
    // A card with several interfaces has one that leads to the functions.
    lines.truncate(1);
    lines
}
