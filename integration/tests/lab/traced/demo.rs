//! `make demo TRACE=1`: two screens on how a device gets into a guest.

use lab::Result;
use lab::expect::expect;
use lab::scenario::Scenario;
use lab::screens::{self, HEIGHT, WIDTH};

/// What each screen tells, in its order.
const MAIN: [&[&str]; 2] = [
    &[
        "KVM_CREATE_VM(",
        "VFIO_GROUP_SET_CONTAINER(",
        "VFIO_GROUP_GET_DEVICE_FD(",
        "[BAR0",
        "VFIO_IOMMU_MAP_DMA(",
    ],
    &[
        "vendor ID → 1b36",
        "BAR0 → ffffc004 (size 0x4000)",
        "KVM_SET_USER_MEMORY_REGION(slot=1",
        "MSI-X[1] vector",
        "KVM_IRQFD(",
        "VFIO_DEVICE_SET_IRQS(",
        "Then the guest reads 256 blocks",
    ],
];

pub fn scenario() -> Scenario {
    screens::scenario("the_demo_of_the_trace", check)
}

fn check(screens: &[Vec<String>; 2]) -> Result<()> {
    for (screen, main) in screens.iter().zip(MAIN) {
        let text = screen.join("\n");
        let fits = screen.len() <= HEIGHT && screen.iter().all(|l| l.chars().count() <= WIDTH);
        expect(fits, || format!("a screen is too large:\n{text}"))?;
        let mut rest = text.as_str();
        for words in main {
            let found = rest.split_once(words);
            rest = found.map_or("", |(_, after)| after);
            expect(found.is_some(), || {
                format!("{words} is missing, or not in its order:\n{text}")
            })?;
        }
    }
    // One eventfd is both ends of the interrupt.
    let ends = ["└ eventfd2(", "└ KVM_IRQFD(", "└ VFIO_DEVICE_SET_IRQS("];
    let named = ends.map(|end| {
        let line = screens[1].iter().find(|line| line.contains(end))?;
        let number = line.split("eventfd ").nth(1)?.split([' ', ')']).next()?;
        Some(number.to_string())
    });
    expect(
        named[0].is_some() && named.iter().all(|name| *name == named[0]),
        || format!("the eventfds of {ends:?} are {named:?}"),
    )
}
