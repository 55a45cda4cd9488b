//! Checks that the host has the guest's memory free, as a run with a device does.

use vmm::config::memory::HugePage;
use vmm::hostinfo::memory::Shortage;
use vmm::memory::hugetlb::Reserve;
use vmm::memory::ram::RamError;

use crate::check::finding::Finding;
use crate::details::size_text;
use crate::facts::HostFacts;

const NAME: &str = "memory";

/// Checks free memory as a run with a device does; `None` if /proc does not show it.
pub(super) fn memory(host: &HostFacts) -> Option<Finding> {
    let wanted = size_text(host.wanted);
    if let Some((page, reserve)) = host.reserve {
        return Some(reserved(&wanted, host.wanted / page.size(), page, reserve));
    }
    if !host.checked {
        return Some(Finding::pass(
            NAME,
            format!("not checked for the guest's {wanted} (check=off)"),
        ));
    }
    let memory = host.memory?;
    let mib = |bytes: u64| format!("{}M", bytes >> 20);
    let Some(short) = memory.shortage(host.wanted, true) else {
        let least = memory
            .group
            .map_or(memory.available, |group| group.min(memory.available));
        return Some(Finding::pass(
            NAME,
            format!("{} free for the guest's {wanted}", mib(least)),
        ));
    };
    let (exceeds, other) = match short {
        Shortage::Total(total) => (format!("this host's {}", mib(total)), ""),
        Shortage::Available(left) => (
            format!("the {} that are free", mib(left)),
            "end other programs, or ",
        ),
        Shortage::Group(left) => (
            format!(
                "the {} that the limit of this process's control group leaves",
                mib(left)
            ),
            "raise the limit, or ",
        ),
    };
    let half = short.left().min(memory.available) >> 21;
    Some(Finding::fail(
        NAME,
        format!("the guest's {wanted} are more than {exceeds}"),
        format!(
            "{other}run it with --memory {half}M; --memory {}M,check=off starts it all the same",
            host.wanted >> 20
        ),
    ))
}

/// Checks that the host's reserve has `need` free huge pages.
fn reserved(wanted: &str, need: u64, page: HugePage, reserve: Option<Reserve>) -> Finding {
    match reserve {
        Some(Reserve { free, .. }) if free >= need => Finding::pass(
            NAME,
            format!("{free} huge pages of {page} are free for the {need} of the guest's {wanted}"),
        ),
        Some(reserve) => {
            let error = RamError::HugePages {
                page,
                need,
                reserve,
            };
            Finding::fail(NAME, error.to_string(), error.hint())
        }
        None => {
            let error = RamError::NoHugePages(page);
            Finding::fail(NAME, error.to_string(), error.hint())
        }
    }
}
