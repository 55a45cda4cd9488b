//! What is mapped where and when: guest memory, the VMM's memory, and I/O addresses.

use std::collections::{BTreeMap, HashMap};

/// The most areas that are kept: those that are mapped, and those that were.
const MOST: usize = 1 << 12;

/// The address spaces that a page has side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Guest-physical addresses.
    Guest,
    /// Virtual addresses of the VMM.
    Host,
    /// Addresses that a device uses.
    Io,
}

/// One address space: a VM's, a process's, a container's or an IOAS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId {
    /// Which kind.
    pub side: Side,
    /// Unique among those of a kind.
    pub number: u64,
}

/// A range that is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// The address space.
    pub space: SpaceId,
    /// The process that has mapped it.
    pub pid: i32,
    /// The first address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Where it is in the memory of the process.
    pub host: Option<u64>,
    /// What it is.
    pub what: String,
    /// When it was mapped, the last time.
    pub since: u64,
    /// When it was unmapped, if it was.
    pub until: Option<u64>,
    /// How often.
    pub times: u64,
}

impl Area {
    /// The first address after the area.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }

    /// Whether it is in guest memory.
    pub fn is_guest(&self) -> bool {
        self.space.side == Side::Guest
    }

    fn was_at(&self, time: u64) -> bool {
        self.since <= time && self.until.is_none_or(|until| until > time)
    }
}

type Key = (SpaceId, u64, u64, Option<u64>);

/// All areas.
#[derive(Debug, Default)]
pub struct Areas {
    mapped: BTreeMap<(SpaceId, u64), Area>,
    ended: HashMap<Key, Area>,
    /// Areas for which there was no room.
    pub left_out: u64,
}

impl Areas {
    /// A range is mapped. What was there is not any more.
    pub fn map(&mut self, area: Area) {
        if area.size == 0 {
            return;
        }
        self.unmap(area.space, area.start, area.size, area.since);
        if self.mapped.len() >= MOST {
            self.left_out += 1;
            return;
        }
        self.mapped.insert((area.space, area.start), area);
    }

    /// A range is not mapped any more. What is left of an area stays.
    pub fn unmap(&mut self, space: SpaceId, start: u64, size: u64, time: u64) {
        if size == 0 {
            return;
        }
        let end = start.saturating_add(size);
        let before = self.mapped.range(..(space, start)).next_back();
        let first = match before {
            Some(((of, at), area)) if *of == space && area.end() > start => *at,
            _ => start,
        };
        let inside = self.mapped.range((space, first)..(space, end));
        let starts: Vec<u64> = inside.map(|((_, at), _)| *at).collect();
        for at in starts {
            if let Some(area) = self.mapped.remove(&(space, at)) {
                self.cut(&area, start, end, time);
            }
        }
    }

    fn cut(&mut self, area: &Area, start: u64, end: u64, time: u64) {
        let parts = [
            (area.start, area.end().min(start)),
            (area.start.max(end), area.end()),
        ];
        for (from, to) in parts.into_iter().filter(|(from, to)| from < to) {
            let skipped = from - area.start;
            let rest = Area {
                start: from,
                size: to - from,
                host: area.host.map(|host| host.wrapping_add(skipped)),
                ..area.clone()
            };
            match self.mapped.len() < MOST {
                true => drop(self.mapped.insert((area.space, from), rest)),
                false => self.left_out += 1,
            }
        }
        let (from, to) = (area.start.max(start), area.end().min(end));
        let host = area.host.map(|host| host.wrapping_add(from - area.start));
        self.end(Area {
            start: from,
            size: to - from,
            host,
            until: Some(time),
            ..area.clone()
        });
    }

    /// Guests move BARs about, so the same area may come and go often.
    fn end(&mut self, area: Area) {
        let key = (area.space, area.start, area.size, area.host);
        if let Some(known) = self.ended.get_mut(&key) {
            let times = known.times + area.times;
            *known = Area { times, ..area };
        } else if self.ended.len() < MOST {
            self.ended.insert(key, area);
        } else {
            self.left_out += 1;
        }
    }

    /// What is mapped at an address now.
    pub fn at(&self, space: SpaceId, address: u64) -> Option<&Area> {
        let (_, area) = self.mapped.range(..=(space, address)).next_back()?;
        (area.space == space && address < area.end()).then_some(area)
    }

    /// All areas that ever were, by address.
    pub fn all(&self) -> Vec<&Area> {
        let mut all: Vec<_> = self.mapped.values().chain(self.ended.values()).collect();
        all.sort_by_key(|area| (area.space, area.start, area.size, area.since));
        all
    }

    /// The areas at a time, by address.
    pub fn then(&self, time: u64) -> Vec<&Area> {
        let all = self.all().into_iter();
        all.filter(|area| area.was_at(time)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: SpaceId = SpaceId {
        side: Side::Guest,
        number: 1,
    };

    fn area(start: u64, size: u64, since: u64) -> Area {
        Area {
            space: GUEST,
            pid: 1,
            start,
            size,
            host: Some(start.wrapping_add(0x7000_0000)),
            what: "memory".into(),
            since,
            until: None,
            times: 1,
        }
    }

    fn ranges(areas: &[&Area]) -> Vec<(u64, u64, Option<u64>)> {
        areas.iter().map(|a| (a.start, a.size, a.host)).collect()
    }

    #[test]
    fn a_hole_splits_an_area() {
        let mut areas = Areas::default();
        areas.map(area(0x1000, 0x3000, 10));
        areas.unmap(GUEST, 0x2000, 0x1000, 20);
        let now = [
            (0x1000, 0x1000, Some(0x7000_1000)),
            (0x3000, 0x1000, Some(0x7000_3000)),
        ];
        assert_eq!(ranges(&areas.then(30)), now);
        assert_eq!(areas.then(15).len(), 3, "the part was mapped then");
        assert!(areas.at(GUEST, 0x2fff).is_none());
        assert_eq!(areas.at(GUEST, 0x3fff).unwrap().start, 0x3000);
        areas.unmap(GUEST, 0, u64::MAX, 40);
        assert!(areas.then(50).is_empty());
        assert_eq!(areas.all().len(), 3);
    }

    #[test]
    fn the_same_area_counts_its_times() {
        let mut areas = Areas::default();
        for i in 0..3 {
            areas.map(area(0xfe00_0000, 0x4000, i * 10));
            areas.unmap(GUEST, 0xfe00_0000, 0x4000, i * 10 + 5);
        }
        let all = areas.all();
        assert_eq!((all.len(), all[0].times, all[0].since), (1, 3, 20));
    }

    #[test]
    fn lists_have_a_limit_and_ends_do_not_overflow() {
        let mut areas = Areas::default();
        for i in 0..10_000 {
            areas.map(area(i * 0x2000, 0x1000, i));
        }
        assert_eq!(areas.all().len(), MOST);
        assert_eq!(areas.left_out, 10_000 - MOST as u64);
        areas.unmap(GUEST, 0, u64::MAX, 1);
        areas.map(area(u64::MAX - 1, u64::MAX, 2));
        areas.unmap(GUEST, u64::MAX - 4, u64::MAX, 3);
        assert!(areas.all().iter().all(|area| area.until.is_some()));
    }
}
