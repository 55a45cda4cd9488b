//! Which program checks which work.

use crate::cross::{fio, iperf3};
use crate::work::task::{Target, Task, Work};
use crate::work::traffic::Traffic;

/// The other program for a kind of device.
pub fn tool_of(target: &Target) -> Option<&'static str> {
    match target {
        Target::Disk(_) => Some(fio::NAME),
        Target::Port(_) => Some(iperf3::NAME),
        Target::Function => None,
    }
}

/// The work that the other program does, too.
pub fn work(task: &Task) -> Option<&Work> {
    let mut works = task.works.iter();
    works.find(|work| match work.traffic {
        None => work.depth == 1 && work.writes == 0,
        Some(traffic) => traffic == Traffic::Send,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::task::{DiskId, Engine, FunctionId, port_works};

    #[test]
    fn one_work_of_each_device_is_checked() {
        let mut task = Task {
            works: vec![Work::writing(4, 1, crate::work::task::Order::Random, 100)],
            warm_up_ms: 1,
            measure_ms: 1,
            engine: Engine::Threads,
            target: Target::Disk(DiskId {
                wwid: None,
                sectors: 8,
            }),
            function: FunctionId::default(),
            destroy: None,
        };
        assert_eq!((tool_of(&task.target), work(&task)), (Some("fio"), None));
        task.works
            .push(Work::new(4, 1, crate::work::task::Order::Random));
        assert_eq!(
            work(&task).map(|work| work.name.as_str()),
            Some("read-4k-d1")
        );
        task.works = port_works();
        assert_eq!(
            work(&task).map(|work| work.name.as_str()),
            Some("send-128k-d16")
        );
    }
}
