//! Makes guest RAM present and maps it for DMA, on a thread, while the guest starts.
//!
//! A guest may run before the thread is done: only a vCPU that enables bus mastering waits
//! ([`DmaReady`]).

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use tracing::Span;

use crate::log::progress::Progress;
use crate::memory::dma::{Dma, MAP_CHUNK, map_chunks};
use crate::memory::dma_ready::DmaReady;
use crate::memory::error::DmaError;
use crate::memory::populate_throttle::PopulateThrottle;
use crate::memory::ram::{Ram, RamError};
use crate::memory::region::Region;
use crate::phase;
use crate::sandbox::{self, Kind};

/// The most threads that populate RAM. More threads only wait for each other: the kernel zeroes
/// pages as fast as the memory takes them.
const MOST_THREADS: usize = 8;

/// How many threads populate RAM in the background: all CPUs but one, which stays free for set-up.
fn threads() -> usize {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    cpus.saturating_sub(1).clamp(1, MOST_THREADS)
}

/// Makes all RAM present, and shows a progress bar if that takes long.
///
/// # Errors
/// [`RamError::Populate`] when the host has no pages left.
pub fn populate_all(ram: &Ram) -> Result<(), RamError> {
    let _phase = phase!("populate_ram");
    let progress = Progress::new("preparing the guest's memory", ram.size());
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    ram.populate(0..ram.size(), cpus.min(MOST_THREADS), &|done| {
        progress.set(done);
        true
    })
}

/// Makes RAM present, if `populate`, and maps it through `dma`, to which the regions of RAM have
/// been added, while the guest runs. `go_on` is called with the bytes that are mapped and returns
/// whether to go on. Returns whether all RAM is mapped.
///
/// # Errors
/// The host has too few pages, or the IOMMU refuses a map.
pub fn map_beside_guest(
    ram: &Ram,
    populate: bool,
    dma: &Dma,
    go_on: &dyn Fn(u64) -> bool,
) -> Result<bool, PrefaultError> {
    let mut mapped = 0;
    let regions = ram.regions().iter();
    let chunks = regions.flat_map(|region| map_chunks(region).map(move |chunk| (region, chunk)));
    for (region, (at, size)) in chunks {
        if !go_on(mapped) {
            return Ok(false);
        }
        if populate {
            ram.populate(mapped..mapped + size, threads(), &|_| true)?;
        }
        dma.map_ram(region, at, size)?;
        mapped += size;
    }
    dma.finish_ram();
    Ok(go_on(mapped))
}

/// The reason why devices cannot reach RAM.
#[derive(Debug, thiserror::Error)]
pub enum PrefaultError {
    /// The host has too few free pages.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The IOMMU refused a map.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// The thread could not be started, or has panicked.
    #[error("the guest's memory cannot be mapped beside the guest")]
    Thread(#[source] io::Error),
}

/// The thread that makes RAM present and maps it for DMA.
pub struct Prefault {
    ready: Arc<DmaReady>,
    throttle: Arc<PopulateThrottle>,
    /// Bytes of RAM.
    size: u64,
    dma: Option<Sender<Arc<Dma>>>,
    thread: Option<JoinHandle<Result<(), PrefaultError>>>,
}

impl Prefault {
    /// Starts the thread. If `populate`, the thread makes RAM present from now on, except while
    /// `throttle` is paused. It begins to map RAM with [`Prefault::map`]. If RAM cannot be mapped,
    /// the thread calls `failed`, and [`Prefault::check`] returns the reason.
    ///
    /// # Errors
    /// [`PrefaultError::Thread`] when the host has no thread left.
    pub fn start(
        ram: Arc<Ram>,
        populate: bool,
        throttle: Arc<PopulateThrottle>,
        failed: impl FnOnce() + Send + 'static,
    ) -> Result<Self, PrefaultError> {
        let ready = Arc::new(DmaReady::after(ram.size()));
        let size = ram.size();
        let (dma, from_main) = mpsc::channel();
        let work = Work {
            ram,
            populate,
            ready: Arc::clone(&ready),
            throttle: Arc::clone(&throttle),
            dma: from_main,
        };
        let thread = thread::Builder::new()
            .name("prefault".into())
            .spawn(move || {
                // The standard library reads files of cgroups for this number, so the thread is not
                // confined yet.
                let threads = threads();
                sandbox::enter(Kind::Memory);
                work.run(threads, failed)
            });
        Ok(Self {
            ready,
            throttle,
            size,
            dma: Some(dma),
            thread: Some(thread.map_err(PrefaultError::Thread)?),
        })
    }

    /// The latch that opens when all RAM is mapped.
    pub fn ready(&self) -> Arc<DmaReady> {
        Arc::clone(&self.ready)
    }

    /// Makes the thread map RAM through `dma`, to which the regions of RAM have been added already.
    /// Only the first call has an effect.
    pub fn map(&mut self, dma: Arc<Dma>) {
        // If the thread has ended, the message is lost, and `check` returns the reason.
        let _ = self.dma.take().map(|sender| sender.send(dma));
    }

    /// What [`Prefault::map`] sends by, for another thread. `None` if it was used.
    pub fn mapper(&mut self) -> Option<Sender<Arc<Dma>>> {
        self.dma.take()
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Waits until at most `left` bytes are still to be mapped, and shows a progress bar if that
    /// takes long.
    ///
    /// # Errors
    /// The reason why RAM cannot be mapped.
    pub fn wait(&mut self, left: u64) -> Result<(), PrefaultError> {
        let wanted = self.size.saturating_sub(left);
        let progress = Progress::new("pinning the guest's memory", wanted);
        let report = |left| progress.set(self.size.saturating_sub(left).min(wanted));
        self.ready.wait_until_left(left, report);
        self.check()
    }

    /// Checks, without waiting, that mapping has not failed. The reason of a failure is returned
    /// once.
    ///
    /// # Errors
    /// The reason why RAM cannot be mapped.
    pub fn check(&mut self) -> Result<(), PrefaultError> {
        if !self.ready.is_over() {
            return Ok(());
        }
        let died = |_| PrefaultError::Thread(io::Error::other("its thread died"));
        self.thread
            .take()
            .map_or(Ok(()), |thread| thread.join().map_err(died)?)
    }
}

/// Ends the thread, which first finishes the current page or chunk.
impl Drop for Prefault {
    fn drop(&mut self) {
        self.ready.end();
        self.throttle.cancel();
        self.dma.take();
        if let Some(thread) = self.thread.take() {
            // The run is over, and a failure before has ended it (`Prefault::check`).
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct Work {
    ram: Arc<Ram>,
    populate: bool,
    ready: Arc<DmaReady>,
    throttle: Arc<PopulateThrottle>,
    dma: Receiver<Arc<Dma>>,
}

impl Work {
    fn run(self, threads: usize, failed: impl FnOnce()) -> Result<(), PrefaultError> {
        let outcome = self.populate_and_map(threads);
        self.ready.end();
        if outcome.is_err() {
            failed();
        }
        outcome
    }

    /// Populates RAM by `threads` threads and maps the present chunks one by one. Mapping begins as
    /// soon as `dma` is known: opening devices takes a tenth of a second, and populating goes on
    /// meanwhile.
    fn populate_and_map(&self, threads: usize) -> Result<(), PrefaultError> {
        let throttle = &self.throttle;
        let populating = self.populate.then(|| phase!("populate_ram"));
        let regions = self.ram.regions().iter();
        let all: Vec<Chunk<'_>> = regions
            .flat_map(|region| map_chunks(region).map(move |(at, size)| (region, at, size)))
            .collect();
        // Between two maps, all threads populate `together` map chunks. One map chunk has work for
        // all threads, unless pages are as large as the map chunk.
        let together = if self.ram.chunk() < MAP_CHUNK {
            1
        } else {
            threads
        };
        let mut progress = Progressed::default();
        let mut offset = 0;
        for some in all.chunks(together) {
            progress.begin_mapping(|| self.dma.try_recv().ok());
            self.map(&mut progress)?;
            let size: u64 = some.iter().map(|(_, _, size)| size).sum();
            if self.populate {
                let range = offset..offset + size;
                self.ram
                    .populate(range, threads, &|_| throttle.wait_unpaused())?;
            }
            if self.is_cancelled() {
                return Ok(());
            }
            offset += size;
            progress.present.extend(some);
        }
        drop(populating);
        progress.begin_mapping(|| self.dma.recv().ok());
        self.map(&mut progress)?;
        if let Some((dma, phase)) = progress.dma
            && progress.mapped == offset
        {
            dma.finish_ram();
            drop(phase);
            self.ready.set_left(0);
        }
        Ok(())
    }

    /// Maps the chunks that are present.
    fn map<'a>(&'a self, progress: &mut Progressed<'a>) -> Result<(), PrefaultError> {
        let Some((dma, _)) = &progress.dma else {
            return Ok(());
        };
        for (region, at, size) in progress.present.drain(..) {
            if self.is_cancelled() {
                break;
            }
            dma.map_ram(region, at, size)?;
            progress.mapped += size;
            // Zero is reported only after the BARs that wait for RAM are mapped as well.
            let left = self.ram.size() - progress.mapped;
            self.ready.set_left(left.max(1));
        }
        Ok(())
    }

    /// Whether [`Prefault`] has been dropped: nothing else ends the latch while the thread works.
    fn is_cancelled(&self) -> bool {
        self.ready.is_over()
    }
}

/// A part of RAM that one call maps: region, offset in the region, and size in bytes.
type Chunk<'a> = (&'a Region, u64, u64);

/// The progress of populating and mapping.
#[derive(Default)]
struct Progressed<'a> {
    /// The IOMMU to map into, once it is known, and the phase that began then.
    dma: Option<(Arc<Dma>, Span)>,
    /// Chunks that are present and not mapped yet.
    present: Vec<Chunk<'a>>,
    /// Bytes that are mapped.
    mapped: u64,
}

impl Progressed<'_> {
    /// Asks `dma` for the IOMMU to map into, if it is not known yet.
    fn begin_mapping(&mut self, dma: impl FnOnce() -> Option<Arc<Dma>>) {
        if self.dma.is_none() {
            self.dma = dma().map(|dma| (dma, phase!("map_dma")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use pci::addr::Range;

    use super::*;
    use crate::config::memory::Pages;
    use crate::layout::Layout;
    use crate::memory::address_space::AddressSpace;
    use crate::memory::dma_mapper::DmaMapper;

    /// Maps one chunk for each message, and without waiting once the sender is gone; refuses to map
    /// at one address.
    struct Slow {
        go_on: Mutex<Receiver<()>>,
        refuses: Option<u64>,
        mapped: Mutex<Vec<u64>>,
    }

    impl DmaMapper for Slow {
        fn map(&self, iova: u64, _: u64, _: u64) -> io::Result<()> {
            let _ = self.go_on.lock().unwrap().recv();
            if self.refuses == Some(iova) {
                return Err(io::Error::from_raw_os_error(libc::EFAULT));
            }
            self.mapped.lock().unwrap().push(iova);
            Ok(())
        }
        fn unmap(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn iova_ranges(&self) -> &[Range] {
            &[]
        }
    }

    const GIB: u64 = 1 << 30;

    struct Rig {
        prefault: Prefault,
        slow: Arc<Slow>,
        go_on: Sender<()>,
        dma: Arc<Dma>,
        failed: Receiver<()>,
    }

    /// RAM of 4 GiB in four chunks. No chunk is populated.
    fn rig(refuses: Option<u64>) -> Rig {
        let layout = Layout::new(4 * GIB, 0, 40).unwrap();
        let ram = Arc::new(Ram::new(&layout, Pages::Transparent, false).unwrap());
        let (go_on, messages) = channel();
        let slow = Arc::new(Slow {
            go_on: Mutex::new(messages),
            refuses,
            mapped: Mutex::default(),
        });
        let dma = Arc::new(Dma::new(slow.clone(), ram.size(), true, Arc::default()));
        let space = AddressSpace::new();
        for region in ram.regions() {
            space.add(region.clone()).unwrap();
        }
        space.subscribe(dma.clone()).unwrap();
        let (tell, failed) = channel();
        let failure = move || tell.send(()).unwrap();
        let prefault = Prefault::start(ram, false, Arc::default(), failure).unwrap();
        Rig {
            prefault,
            slow,
            go_on,
            dma,
            failed,
        }
    }

    fn waiter(ready: Arc<DmaReady>) -> Receiver<bool> {
        let (tell, told) = channel();
        thread::spawn(move || tell.send(ready.wait_ready()));
        told
    }

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn dma_is_ready_with_the_last_chunk() {
        let mut rig = rig(None);
        let waited = waiter(rig.prefault.ready());
        rig.prefault.map(rig.dma.clone());
        for _ in 0..2 {
            rig.go_on.send(()).unwrap();
        }
        // Enough for a guest to begin, and not for its device.
        rig.prefault.wait(2 * GIB).unwrap();
        assert_eq!(*rig.slow.mapped.lock().unwrap(), [0, GIB]);
        assert!(waited.recv_timeout(SHORT).is_err());
        drop(rig.go_on);
        assert!(waited.recv().unwrap());
        rig.prefault.wait(0).unwrap();
        assert_eq!(*rig.slow.mapped.lock().unwrap(), [0, GIB, 2 * GIB, 4 * GIB]);
        assert!(rig.prefault.ready().wait_ready());
        assert!(rig.failed.recv().is_err(), "nobody is told of a failure");
    }

    #[test]
    fn nobody_waits_while_vcpus_stop() {
        let rig = rig(None);
        let ready = rig.prefault.ready();
        let waited = waiter(ready.clone());
        assert!(waited.recv_timeout(SHORT).is_err());
        ready.set_stopping(true);
        assert!(!waited.recv().unwrap());
        ready.set_stopping(false);
        let waited = waiter(ready);
        assert!(waited.recv_timeout(SHORT).is_err());
        // Mapping has ended, so no thread waits for it.
        drop(rig);
        assert!(!waited.recv().unwrap());
    }

    #[test]
    fn a_refusal_is_told() {
        let mut rig = rig(Some(2 * GIB));
        let waited = waiter(rig.prefault.ready());
        rig.prefault.map(rig.dma.clone());
        drop(rig.go_on);
        rig.failed.recv().unwrap();
        assert!(!waited.recv().unwrap());
        let e = rig.prefault.check().unwrap_err();
        assert!(matches!(e, PrefaultError::Dma(DmaError::Map { .. })), "{e}");
        assert_eq!(*rig.slow.mapped.lock().unwrap(), [0, GIB]);
    }

    #[test]
    fn an_end_stops_it_between_chunks() {
        let mut rig = rig(None);
        rig.prefault.map(rig.dma.clone());
        rig.go_on.send(()).unwrap();
        rig.prefault.wait(3 * GIB).unwrap();
        let (prefault, go_on) = (rig.prefault, rig.go_on);
        let ending = thread::spawn(move || drop(prefault));
        thread::sleep(SHORT);
        // The chunk that is being mapped.
        go_on.send(()).unwrap();
        ending.join().unwrap();
        let mapped = rig.slow.mapped.lock().unwrap();
        // The end may have come before the first chunk was mapped.
        assert!([0, GIB].starts_with(&mapped), "{mapped:?}");
    }
}
