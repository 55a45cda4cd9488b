//! What happened when, in bins whose width doubles as a trace grows: the size of a page does not
//! depend on the number of events.

use std::collections::HashMap;

/// The bins of a track.
pub const BINS: usize = 320;
/// The tracks of a timeline. Further ones have the last in common.
pub const TRACKS: usize = 24;
/// The first width of a bin is 2^10 ns.
const FIRST_SHIFT: u32 = 10;
/// The most threads and files that have a track, alone or with others.
const MOST: usize = 1 << 16;

/// What a slice is: its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// An exit for a port.
    Port,
    /// An exit for memory.
    Memory,
    /// Another exit.
    Exit,
    /// A call of KVM.
    Kvm,
    /// A call of VFIO.
    Vfio,
    /// A call of iommufd.
    Iommufd,
    /// Another call: of eventfds, of memory.
    Other,
    /// An event of the kernel.
    Kernel,
}

/// All categories: the class in the page, and the words of the legend.
pub const CATEGORIES: [(Category, &str, &str); 8] = [
    (Category::Port, "c-port", "exit: port"),
    (Category::Memory, "c-memory", "exit: memory"),
    (Category::Exit, "c-exit", "exit: other"),
    (Category::Kvm, "c-kvm", "call: KVM"),
    (Category::Vfio, "c-vfio", "call: VFIO"),
    (Category::Iommufd, "c-iommufd", "call: iommufd"),
    (Category::Other, "c-other", "call: eventfd, memory"),
    (
        Category::Kernel,
        "c-kernel",
        "event of the kernel (--kernel)",
    ),
];

/// What a track is of, in the order of tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Of {
    /// A vCPU, by the number of its file.
    Vcpu(u32),
    /// A device, by the number of its file.
    Device(u32),
    /// A thread.
    Thread(i32),
    /// An event of the kernel, by its name.
    Kernel(&'static str),
}

/// A part of a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bin {
    /// Slices that begin here.
    pub count: u32,
    /// Nanoseconds that are covered, of all slices.
    pub busy: u64,
    /// Nanoseconds that are covered, by category; a slice without length counts as one.
    by: [u64; CATEGORIES.len()],
}

impl Bin {
    fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.busy = self.busy.saturating_add(other.busy);
        for (own, more) in self.by.iter_mut().zip(other.by) {
            *own = own.saturating_add(more);
        }
    }

    /// The category of most of the time.
    pub fn category(&self) -> (Category, &'static str, &'static str) {
        let most = (0..self.by.len()).max_by_key(|i| (self.by[*i], self.by.len() - i));
        CATEGORIES[most.unwrap_or(0)]
    }
}

/// A row of a timeline.
#[derive(Debug)]
pub struct Track {
    /// Its name.
    pub name: String,
    /// What it is of.
    pub of: Of,
    /// Its slices.
    pub slices: u64,
    /// Its bins, up to the last that has something.
    pub bins: Vec<Bin>,
}

/// Tracks over time.
#[derive(Debug)]
pub struct Timeline {
    /// When it begins.
    pub start: Option<u64>,
    /// When it ends.
    pub end: u64,
    shift: u32,
    tracks: Vec<Track>,
    known: HashMap<Of, usize>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            start: None,
            end: 0,
            shift: FIRST_SHIFT,
            tracks: Vec::new(),
            known: HashMap::new(),
        }
    }
}

impl Timeline {
    /// The width of a bin in nanoseconds.
    pub fn width(&self) -> u64 {
        1 << self.shift
    }

    /// The tracks: vCPUs, devices, threads, the kernel.
    pub fn tracks(&self) -> Vec<&Track> {
        let mut tracks: Vec<_> = self.tracks.iter().collect();
        tracks.sort_by_key(|track| track.of);
        tracks
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.tracks.is_empty()
    }

    /// The time starts here, if it has not started. A slice that began before is cut.
    pub fn begin(&mut self, time: u64) {
        self.start.get_or_insert(time);
        self.end = self.end.max(time);
    }

    /// Adds a slice to a track.
    pub fn add(
        &mut self,
        of: &Of,
        name: impl FnOnce() -> String,
        category: Category,
        (time, took): (u64, u64),
    ) {
        let start = *self.start.get_or_insert(time);
        self.reach(time.saturating_add(took), start);
        let Some(at) = self.track(of, name) else {
            return;
        };
        self.tracks[at].slices += 1;
        let first = (time.max(start) - start) >> self.shift;
        let bin = self.bin(at, first);
        bin.count = bin.count.saturating_add(1);
        self.fill(at, category, (time, took), start);
    }

    /// Adds time to a slice of a known track.
    pub fn cover(&mut self, of: &Of, category: Category, (time, took): (u64, u64)) {
        let (Some(at), Some(start)) = (self.known.get(of).copied(), self.start) else {
            return;
        };
        self.reach(time.saturating_add(took), start);
        self.fill(at, category, (time, took), start);
    }

    /// Widens the bins until the timeline reaches an end.
    fn reach(&mut self, end: u64, start: u64) {
        self.end = self.end.max(end);
        while self.end.saturating_sub(start) >> self.shift >= BINS as u64 {
            self.widen();
        }
    }

    fn bin(&mut self, track: usize, at: u64) -> &mut Bin {
        let at = (at as usize).min(BINS - 1);
        let bins = &mut self.tracks[track].bins;
        if bins.len() <= at {
            bins.resize(at + 1, Bin::default());
        }
        &mut bins[at]
    }

    fn fill(&mut self, track: usize, category: Category, (time, took): (u64, u64), start: u64) {
        let end = time.saturating_add(took);
        let (from, to) = (time.max(start) - start, end.max(start) - start);
        for at in from >> self.shift..=to >> self.shift {
            let low = at << self.shift;
            let high = low.saturating_add(self.width());
            let bin = self.bin(track, at);
            let covered = to.min(high).saturating_sub(from.max(low));
            bin.busy = bin.busy.saturating_add(covered);
            let by = &mut bin.by[category as usize];
            *by = by.saturating_add(covered.max(1));
        }
    }

    /// Bins of twice the width.
    fn widen(&mut self) {
        self.shift += 1;
        for track in &mut self.tracks {
            let pairs = track.bins.chunks(2).map(|pair| {
                let mut first = pair[0];
                if let Some(second) = pair.get(1) {
                    first.merge(second);
                }
                first
            });
            track.bins = pairs.collect();
        }
    }

    fn track(&mut self, of: &Of, name: impl FnOnce() -> String) -> Option<usize> {
        if let Some(at) = self.known.get(of) {
            return Some(*at);
        }
        if self.known.len() >= MOST {
            return (self.tracks.len() == TRACKS).then_some(TRACKS - 1);
        }
        let at = self.tracks.len().min(TRACKS - 1);
        match self.tracks.get_mut(at) {
            Some(last) => last.name = "others".into(),
            None => self.tracks.push(Track {
                name: name(),
                of: *of,
                slices: 0,
                bins: Vec::new(),
            }),
        }
        self.known.insert(*of, at);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(timeline: &mut Timeline, thread: i32, time: u64, took: u64) {
        let name = || format!("thread {thread}");
        timeline.add(&Of::Thread(thread), name, Category::Kvm, (time, took));
    }

    #[test]
    fn bins_widen_and_lose_nothing() {
        let mut timeline = Timeline::default();
        for i in 0..100_000 {
            add(&mut timeline, 1, 5_000 + i * 10_000, 4_000);
        }
        let tracks = timeline.tracks();
        assert!(tracks[0].bins.len() <= BINS && tracks[0].bins.len() > BINS / 4);
        let count: u64 = tracks[0].bins.iter().map(|bin| u64::from(bin.count)).sum();
        let busy: u64 = tracks[0].bins.iter().map(|bin| bin.busy).sum();
        assert_eq!((count, busy), (100_000, 400_000_000));
        assert_eq!(timeline.end, 5_000 + 99_999 * 10_000 + 4_000);
    }

    #[test]
    fn a_long_slice_covers_its_bins() {
        let mut timeline = Timeline::default();
        add(&mut timeline, 1, 100, 3 << FIRST_SHIFT);
        // One that began before the timeline is cut.
        add(&mut timeline, 2, 0, 150);
        let tracks = timeline.tracks();
        let busy: Vec<_> = tracks[0].bins.iter().map(|bin| bin.busy).collect();
        assert_eq!(busy, [1024, 1024, 1024, 0]);
        assert_eq!(tracks[0].bins[0].category().0, Category::Kvm);
        assert_eq!(tracks[1].bins[0].busy, 50);
    }

    #[test]
    fn a_bin_has_the_category_of_most_of_its_time() {
        let mut timeline = Timeline::default();
        let name = || "vCPU 0".into();
        let mut add = |category, when| timeline.add(&Of::Thread(1), name, category, when);
        add(Category::Vfio, (0, 900));
        for time in 900..910 {
            add(Category::Kvm, (time, 1));
        }
        assert_eq!(timeline.tracks()[0].bins[0].category().0, Category::Vfio);
    }

    #[test]
    fn tracks_have_a_limit_and_times_no_overflow() {
        let mut timeline = Timeline::default();
        for thread in 0..100_000 {
            add(&mut timeline, thread, 0, 10);
        }
        add(&mut timeline, 1, u64::MAX, u64::MAX);
        let tracks = timeline.tracks();
        assert_eq!(tracks.len(), TRACKS);
        let slices: u64 = tracks.iter().map(|track| track.slices).sum();
        assert_eq!(slices, 100_001);
        assert!(tracks.iter().any(|track| track.name == "others"));
    }
}
