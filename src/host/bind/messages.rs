//! Messages of `host bind` to the user: the steps of a dry run, and the result for each device.

use crate::bind::driver::Driver;
use crate::bind::facts::Facts;
use crate::bind::host::Host;
use crate::bind::plan::Step;
use crate::bind::record::Record;
use crate::bind::user::User;
use crate::in_use::{Use, in_use, nothing_found, sees_all};

/// The steps as shell commands, after the commands that load missing drivers. If several devices
/// need the same command, for example for the node of a group, the command is printed once.
pub(super) fn dry_run(host: &Host, drivers: &[Driver], steps: &[Step]) -> Vec<String> {
    let missing = drivers
        .iter()
        .filter(|driver| !host.driver_path(&driver.name).exists());
    let loads = missing.map(|driver| Step::Load(driver.clone()).to_string());
    let mut lines = Vec::new();
    for line in loads.chain(steps.iter().map(Step::to_string)) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// What the host does with a device, as comments below the commands: the uses, or what was looked
/// at without finding one. Without `force`, a device with a serious use was refused.
pub(super) fn uses(host: &Host, before: &Facts, force: bool) -> Vec<String> {
    let bdf = before.bdf();
    let uses = match in_use(&host.sysfs, &host.paths, &before.device) {
        Ok(uses) => uses,
        Err(e) => return vec![format!("# {bdf}: its use could not be found out: {e}")],
    };
    if uses.is_empty() {
        return vec![format!("# {bdf}: {}", nothing_found(sees_all(&host.paths)))];
    }
    let despite = if force {
        " (--force binds it all the same)"
    } else {
        ""
    };
    let line = |used: &Use| format!("# {bdf}: {used}{despite}");
    uses.iter().map(line).collect()
}

/// The message for a device that was bound.
pub(super) fn bound(before: &Facts, driver: &Driver) -> String {
    let bdf = before.bdf();
    let group = before
        .device
        .group
        .map_or(String::new(), |g| format!(", IOMMU group {g}"));
    match before.device.driver.as_deref() {
        Some(has) if before.device.is_vfio() => format!("{bdf}: bound to {has} already{group}"),
        has => format!(
            "{bdf}: {} -> {}{group}",
            has.unwrap_or("no driver"),
            driver.name
        ),
    }
}

/// The message for a physical function, or for one of its virtual functions.
pub(super) fn function(record: &Record) -> String {
    let bdf = record.bdf;
    match (record.functions, &record.bound, record.group) {
        (Some(count), ..) => format!("{bdf}: {count} virtual functions"),
        (None, Some(driver), Some(group)) => {
            format!("{bdf}: no driver -> {driver}, IOMMU group {group}")
        }
        (None, ..) => format!("{bdf}: bound"),
    }
}

/// The nodes that the user may open now, and the permissions that the user still lacks.
pub(super) fn about_user(host: &Host, records: &[Record], user: &User) -> Vec<String> {
    let mut nodes: Vec<_> = records
        .iter()
        .flat_map(|r| &r.nodes)
        .map(|n| n.path.display().to_string())
        .collect();
    nodes.sort();
    nodes.dedup();
    let mut lines = Vec::new();
    if !nodes.is_empty() {
        lines.push(format!("{} may open {}", user.name, nodes.join(", ")));
    }
    lines.extend(
        user.needs(&host.paths.dev)
            .into_iter()
            .map(|n| format!("note: {n}")),
    );
    lines
}
