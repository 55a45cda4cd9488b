//! The boxes of an address map: what is mapped, what is trapped, and the holes between.

use crate::guest::access::Space;
use crate::output::html::answers::{InKernel, Trapped};
use crate::output::html::areas::Area;

/// The most boxes that are not joined with their neighbours.
const MOST: usize = 40;

/// Ranges of the kernel that are as near as this are one box.
const NEAR: u64 = 1 << 16;

/// What a box is: its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// RAM.
    Memory,
    /// A file's mapping, such as a device's BAR.
    Mapped,
    /// Nothing is mapped: accesses end KVM_RUN.
    Trapped,
    /// Nothing is mapped: the kernel answers.
    Kernel,
    /// Nothing is mapped, and nothing was accessed.
    Hole,
    /// Several boxes that are too small.
    Several,
}

/// A box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first address.
    pub first: u64,
    /// The last address.
    pub last: u64,
    /// Its look.
    pub look: Look,
    /// What it is.
    pub what: String,
    /// Where it is in the VMM's memory.
    pub host: Option<u64>,
}

impl Block {
    /// Bytes. The whole address space is one less.
    pub fn size(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// A box of an area.
    pub fn of(area: &Area) -> Self {
        let is_memory = area.what.contains("RAM");
        let times = match area.times {
            1 => String::new(),
            times => format!(" ({times} times)"),
        };
        Self {
            first: area.start,
            last: area.start.saturating_add(area.size - 1),
            look: if is_memory {
                Look::Memory
            } else {
                Look::Mapped
            },
            what: format!("{}{times}", area.what),
            host: area.host,
        }
    }
}

/// The boxes of guest memory: areas, then what is trapped beside them, then what the kernel
/// answers.
pub fn guest<'a>(
    areas: impl Iterator<Item = &'a Area>,
    trapped: &[(Space, Trapped)],
    kernel: impl Iterator<Item = &'a InKernel>,
) -> Vec<Block> {
    let mut all: Vec<Block> = areas.map(Block::of).collect();
    let trapped = trapped.iter().filter(|(space, _)| *space == Space::Memory);
    for (_, trapped) in trapped {
        let what = trapped.what.as_deref().unwrap_or("unnamed");
        let counts = match (trapped.exits, trapped.coalesced) {
            (exits, 0) => format!("{exits} exits"),
            (exits, coalesced) => format!("{exits} exits, {coalesced} coalesced"),
        };
        beside(&mut all, trapped.first, trapped.last, Look::Trapped, || {
            format!("{what}: {counts}")
        });
    }
    for range in kernel.filter(|range| range.space == Space::Memory) {
        beside(&mut all, range.first, range.last, Look::Kernel, || {
            format!("KVM: {}", range.what)
        });
    }
    joined(all)
}

/// Neighbours of the same meaning that the kernel answers are one: QEMU makes a coalesced zone for
/// each part of a device's registers.
fn joined(mut blocks: Vec<Block>) -> Vec<Block> {
    blocks.sort_by_key(|block| (block.first, block.last));
    let mut all: Vec<Block> = Vec::new();
    for block in blocks {
        match all.last_mut() {
            Some(last)
                if block.look == Look::Kernel
                    && last.what == block.what
                    && block.first - last.last.min(block.first) <= NEAR =>
            {
                last.last = last.last.max(block.last);
            }
            _ => all.push(block),
        }
    }
    all
}

/// Adds a box unless there is one.
fn beside(all: &mut Vec<Block>, first: u64, last: u64, look: Look, what: impl FnOnce() -> String) {
    if all.iter().any(|b| b.first <= last && first <= b.last) {
        return;
    }
    all.push(Block {
        first,
        last,
        look,
        what: what(),
        host: None,
    });
}

/// The parts of the VMM's memory that the areas of other spaces lead to, and its mappings of files.
/// Overlapping parts are one.
pub fn host<'a>(areas: impl Iterator<Item = &'a Area>) -> Vec<Block> {
    let mut all: Vec<Block> = Vec::new();
    let blocks = areas.filter_map(|area| {
        let block = Block::of(area);
        let Some(first) = area.host else {
            return (!is_io_only(area)).then_some(block);
        };
        let what = match block.look {
            Look::Memory => "guest RAM".into(),
            _ => area
                .what
                .split_once(": ")
                .map_or(&*area.what, |(_, what)| what)
                .into(),
        };
        Some(Block {
            first,
            last: first.saturating_add(area.size - 1),
            what,
            host: None,
            ..block
        })
    });
    let mut blocks: Vec<Block> = blocks.collect();
    blocks.sort_by_key(|block| (block.first, std::cmp::Reverse(block.last)));
    for block in blocks {
        match all.last_mut() {
            Some(last) if block.first <= last.last => last.last = last.last.max(block.last),
            Some(last) if block.first == last.last.saturating_add(1) && last.what == block.what => {
                last.last = block.last;
            }
            _ => all.push(block),
        }
    }
    all
}

fn is_io_only(area: &Area) -> bool {
    area.space.side != crate::output::html::areas::Side::Host
}

/// By address, with holes between, and with small neighbours joined.
pub fn with_holes(mut blocks: Vec<Block>) -> Vec<Block> {
    blocks.sort_by_key(|block| (block.first, block.last));
    let mut sizes: Vec<u64> = blocks.iter().map(Block::size).collect();
    sizes.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
    let least = sizes.get(MOST).map_or(0, |size| size.saturating_add(1));
    let mut all: Vec<(Block, u64)> = Vec::new();
    for block in blocks {
        let small = block.size() < least;
        match all.last_mut() {
            Some((last, count)) if small && *count > 0 => {
                *count += 1;
                last.last = last.last.max(block.last);
                last.what = format!("{count} small areas");
                last.look = Look::Several;
                last.host = None;
            }
            last => {
                let before = last.map(|(last, _)| last.last);
                if let Some(hole) = before.and_then(|before| hole(before, block.first)) {
                    all.push((hole, 0));
                }
                all.push((block, u64::from(small)));
            }
        }
    }
    all.into_iter().map(|(block, _)| block).collect()
}

fn hole(before: u64, after: u64) -> Option<Block> {
    let (first, last) = (before.checked_add(1)?, after.checked_sub(1)?);
    (first <= last).then(|| Block {
        first,
        last,
        look: Look::Hole,
        what: "nothing".into(),
        host: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::html::areas::{Side, SpaceId};

    fn area(side: Side, start: u64, size: u64, host: Option<u64>, what: &str) -> Area {
        Area {
            space: SpaceId { side, number: 1 },
            pid: 1,
            start,
            size,
            host,
            what: what.into(),
            since: 0,
            until: None,
            times: 1,
        }
    }

    fn trapped(first: u64, last: u64) -> (Space, Trapped) {
        let trapped = Trapped {
            first,
            last,
            exits: 3,
            ..Trapped::default()
        };
        (Space::Memory, trapped)
    }

    #[test]
    fn holes_and_what_is_trapped_stand_between_slots() {
        let areas = [
            area(Side::Guest, 0, 0xa_0000, Some(0x7000_0000), "slot 0: RAM"),
            area(
                Side::Guest,
                0x10_0000,
                0x1000,
                Some(0x7010_0000),
                "slot 1: device a BAR0",
            ),
        ];
        let inside = trapped(0x9_f000, 0xa_0fff);
        let beside = trapped(0xb_0000, 0xb_0fff);
        let kernel = InKernel {
            space: Space::Memory,
            first: 0xfee0_0000,
            last: 0xfee0_0fff,
            what: "local APIC".into(),
        };
        let blocks = guest(areas.iter(), &[inside, beside], [&kernel].into_iter());
        let blocks = with_holes(blocks);
        let seen: Vec<_> = blocks.iter().map(|b| (b.first, b.last, b.look)).collect();
        let expected = [
            (0, 0x9_ffff, Look::Memory),
            (0xa_0000, 0xa_ffff, Look::Hole),
            (0xb_0000, 0xb_0fff, Look::Trapped),
            (0xb_1000, 0xf_ffff, Look::Hole),
            (0x10_0000, 0x10_0fff, Look::Mapped),
            (0x10_1000, 0xfedf_ffff, Look::Hole),
            (0xfee0_0000, 0xfee0_0fff, Look::Kernel),
        ];
        assert_eq!(seen, expected);
        assert_eq!(blocks[2].what, "unnamed: 3 exits");
    }

    #[test]
    fn memory_that_slots_and_maps_share_is_one_part_of_the_vmm() {
        let areas = [
            area(Side::Guest, 0, 0x1000, Some(0x7000_0000), "slot 0: RAM"),
            area(Side::Io, 0, 0x3000, Some(0x7000_0000), "RAM"),
            area(Side::Io, 0x3000, 0x1000, Some(0x7000_3000), "RAM"),
            area(Side::Io, 0x9000, 0x1000, None, "a file's memory"),
            area(Side::Host, 0x7100_0000, 0x1000, None, "device a BAR0"),
            area(
                Side::Guest,
                0xf000,
                0x1000,
                Some(0x7100_0000),
                "slot 1: device a BAR0",
            ),
        ];
        let blocks = host(areas.iter());
        let seen: Vec<_> = blocks.iter().map(|b| (b.first, b.last, &*b.what)).collect();
        let expected = [
            (0x7000_0000, 0x7000_3fff, "guest RAM"),
            (0x7100_0000, 0x7100_0fff, "device a BAR0"),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn many_small_areas_are_joined() {
        let areas: Vec<_> = (0..1000)
            .map(|i| area(Side::Guest, i * 0x2000, 0x1000, None, "RAM"))
            .chain([area(Side::Guest, 0x1000_0000, 1 << 30, None, "RAM")])
            .collect();
        let blocks = with_holes(areas.iter().map(Block::of).collect());
        let looks: Vec<_> = blocks.iter().map(|b| b.look).collect();
        assert_eq!(looks, [Look::Several, Look::Hole, Look::Memory]);
        assert_eq!(blocks[0].what, "1000 small areas");
        let whole = area(Side::Guest, 0, u64::MAX, None, "RAM");
        assert_eq!(with_holes(vec![Block::of(&whole)]).len(), 1);
    }
}
