//! Guest RAM made present and mapped for DMA beside the guest's first instructions, which take no notice
//! of it: only a device has to wait, at the [`Gate`].

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use tracing::Span;

use crate::log::progress::Progress;
use crate::memory::Region;
use crate::memory::dma::{Dma, DmaError, PIECE, pieces};
use crate::memory::gate::Gate;
use crate::memory::ram::{Ram, RamError};
use crate::phase;

/// The most threads that make RAM present: more only wait for each other, since the kernel zeroes pages
/// as fast as the memory takes them.
const MOST_THREADS: usize = 8;

/// Threads that make RAM present, so that one CPU is left for what is done at the same time.
fn threads() -> usize {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    cpus.saturating_sub(1).clamp(1, MOST_THREADS)
}

/// Makes all of RAM present, with a progress bar if that takes long.
///
/// # Errors
/// The host has no pages left.
pub fn populate(ram: &Ram) -> Result<(), RamError> {
    let _phase = phase!("populate_ram");
    let progress = Progress::new("preparing the guest's memory", ram.size());
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    ram.populate(0..ram.size(), cpus.min(MOST_THREADS), &|done| {
        progress.set(done);
        true
    })
}

/// Why devices cannot reach RAM.
#[derive(Debug, thiserror::Error)]
pub enum PinningError {
    /// The host has no pages.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The IOMMU refused.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// The thread could not be started, or died.
    #[error("the guest's memory cannot be mapped beside the guest")]
    Thread(#[source] io::Error),
}

/// The thread that makes RAM present and maps it.
pub struct Pinning {
    gate: Arc<Gate>,
    size: u64,
    dma: Option<Sender<Arc<Dma>>>,
    thread: Option<JoinHandle<Result<(), PinningError>>>,
}

impl Pinning {
    /// Begins with making RAM present, if `prefault`; mapping waits for [`Pinning::map`]. `failed` is
    /// called when it cannot be mapped; [`Pinning::outcome`] has the reason.
    ///
    /// # Errors
    /// There is no thread left.
    pub fn start(
        ram: Arc<Ram>,
        prefault: bool,
        failed: impl FnOnce() + Send + 'static,
    ) -> Result<Self, PinningError> {
        let gate = Arc::new(Gate::closed(ram.size()));
        let size = ram.size();
        let (dma, from_main) = mpsc::channel();
        let work = Work {
            ram,
            prefault,
            gate: Arc::clone(&gate),
            dma: from_main,
        };
        let thread = thread::Builder::new()
            .name("pinning".into())
            .spawn(move || work.run(failed));
        Ok(Self {
            gate,
            size,
            dma: Some(dma),
            thread: Some(thread.map_err(PinningError::Thread)?),
        })
    }

    /// Where vCPUs wait for it.
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Lets RAM be mapped by `dma`, which has been told of its regions.
    pub fn map(&mut self, dma: Arc<Dma>) {
        // A thread that has ended has a reason, which whoever waits is told.
        let _ = self.dma.take().map(|sender| sender.send(dma));
    }

    /// Waits until at most `left` bytes are left to map, with a progress bar if that takes long.
    ///
    /// # Errors
    /// What keeps them from being mapped.
    pub fn wait(&mut self, left: u64) -> Result<(), PinningError> {
        let wanted = self.size.saturating_sub(left);
        let progress = Progress::new("pinning the guest's memory", wanted);
        let told = |left| progress.set(self.size.saturating_sub(left).min(wanted));
        self.gate.wait(left, told);
        self.outcome()
    }

    /// What came of it, where it is over; success while it is not.
    ///
    /// # Errors
    /// What keeps RAM from being mapped.
    pub fn outcome(&mut self) -> Result<(), PinningError> {
        if !self.gate.is_over() {
            return Ok(());
        }
        let died = |_| PinningError::Thread(io::Error::other("its thread died"));
        self.thread
            .take()
            .map_or(Ok(()), |thread| thread.join().map_err(died)?)
    }
}

/// The thread ends after the page that it makes, or the piece that it maps.
impl Drop for Pinning {
    fn drop(&mut self) {
        self.gate.end();
        self.dma.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    ram: Arc<Ram>,
    prefault: bool,
    gate: Arc<Gate>,
    dma: Receiver<Arc<Dma>>,
}

impl Work {
    fn run(self, failed: impl FnOnce()) -> Result<(), PinningError> {
        let outcome = self.all();
        self.gate.end();
        if outcome.is_err() {
            failed();
        }
        outcome
    }

    /// Piece by piece: what is present is mapped as soon as there is somebody to do it, for devices open
    /// meanwhile, which takes a tenth of a second.
    fn all(&self) -> Result<(), PinningError> {
        let threads = threads();
        let gate = &self.gate;
        let populating = self.prefault.then(|| phase!("populate_ram"));
        let regions = self.ram.regions().iter();
        let all: Vec<(&Region, u64, u64)> = regions
            .flat_map(|region| pieces(region).map(move |(at, size)| (region, at, size)))
            .collect();
        // A page that is as large as a piece is one thread's work.
        let together = if self.ram.chunk() < PIECE { 1 } else { threads };
        let mut mapping = Mapping::default();
        let mut offset = 0;
        for some in all.chunks(together) {
            mapping.look(|| self.dma.try_recv().ok());
            self.map(&mut mapping)?;
            let size: u64 = some.iter().map(|(_, _, size)| size).sum();
            if self.prefault {
                let range = offset..offset + size;
                self.ram.populate(range, threads, &|_| gate.pace())?;
            }
            if self.cancelled() {
                return Ok(());
            }
            offset += size;
            mapping.present.extend(some);
        }
        drop(populating);
        mapping.look(|| self.dma.recv().ok());
        self.map(&mut mapping)?;
        if let Some((dma, phase)) = mapping.to
            && mapping.mapped == offset
        {
            dma.finish_ram();
            drop(phase);
            self.gate.set_left(0);
        }
        Ok(())
    }

    /// Maps what is present.
    fn map(&self, mapping: &mut Mapping) -> Result<(), PinningError> {
        let Some((dma, _)) = &mapping.to else {
            return Ok(());
        };
        for (region, at, size) in mapping.present.drain(..) {
            if self.cancelled() {
                break;
            }
            dma.map_ram(region, at, size)?;
            mapping.mapped += size;
            // The last piece does not count before the BARs are mapped as well.
            let left = self.ram.size() - mapping.mapped;
            self.gate.set_left(left.max(1));
        }
        Ok(())
    }

    /// Only the one who has started it ends it before it is done.
    fn cancelled(&self) -> bool {
        self.gate.is_over()
    }
}

/// How far mapping has come.
#[derive(Default)]
struct Mapping<'a> {
    /// Who maps, once it is known, and the phase that began with it.
    to: Option<(Arc<Dma>, Span)>,
    /// Pieces that are present and not mapped.
    present: Vec<(&'a Region, u64, u64)>,
    /// Bytes.
    mapped: u64,
}

impl Mapping<'_> {
    fn look(&mut self, dma: impl FnOnce() -> Option<Arc<Dma>>) {
        if self.to.is_none() {
            self.to = dma().map(|dma| (dma, phase!("map_dma")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use pci::addr::Range;

    use super::super::AddressSpace;
    use super::super::dma::DmaMapper;
    use super::*;
    use crate::config::memory::Pages;
    use crate::layout::Layout;

    /// Maps one piece for each message, until nobody sends any more; refuses at an address.
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
        pinning: Pinning,
        slow: Arc<Slow>,
        go_on: Sender<()>,
        dma: Arc<Dma>,
        failed: Receiver<()>,
    }

    /// 4 GiB in four pieces, of which none gets a page here.
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
        let pinning = Pinning::start(ram, false, failure).unwrap();
        Rig {
            pinning,
            slow,
            go_on,
            dma,
            failed,
        }
    }

    fn passer(gate: Arc<Gate>) -> Receiver<bool> {
        let (tell, told) = channel();
        thread::spawn(move || tell.send(gate.pass()));
        told
    }

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn the_gate_opens_with_the_last_piece() {
        let mut rig = rig(None);
        let passed = passer(rig.pinning.gate());
        rig.pinning.map(rig.dma.clone());
        for _ in 0..2 {
            rig.go_on.send(()).unwrap();
        }
        // Enough for a guest to begin, and not for its device.
        rig.pinning.wait(2 * GIB).unwrap();
        assert_eq!(*rig.slow.mapped.lock().unwrap(), [0, GIB]);
        assert!(passed.recv_timeout(SHORT).is_err());
        drop(rig.go_on);
        assert!(passed.recv().unwrap());
        rig.pinning.wait(0).unwrap();
        assert_eq!(*rig.slow.mapped.lock().unwrap(), [0, GIB, 2 * GIB, 4 * GIB]);
        assert!(rig.pinning.gate().pass());
        assert!(rig.failed.recv().is_err(), "nobody is told of a failure");
    }

    #[test]
    fn nobody_waits_while_vcpus_stop() {
        let rig = rig(None);
        let gate = rig.pinning.gate();
        let passed = passer(gate.clone());
        assert!(passed.recv_timeout(SHORT).is_err());
        gate.set_stopping(true);
        assert!(!passed.recv().unwrap());
        gate.set_stopping(false);
        let passed = passer(gate);
        assert!(passed.recv_timeout(SHORT).is_err());
        // Nobody will map, so nobody waits for it.
        drop(rig);
        assert!(!passed.recv().unwrap());
    }

    #[test]
    fn a_refusal_is_told() {
        let mut rig = rig(Some(2 * GIB));
        let passed = passer(rig.pinning.gate());
        rig.pinning.map(rig.dma.clone());
        drop(rig.go_on);
        rig.failed.recv().unwrap();
        assert!(!passed.recv().unwrap());
        let e = rig.pinning.outcome().unwrap_err();
        assert!(matches!(e, PinningError::Dma(DmaError::Map { .. })), "{e}");
        assert_eq!(*rig.slow.mapped.lock().unwrap(), [0, GIB]);
    }

    #[test]
    fn an_end_stops_it_between_pieces() {
        let mut rig = rig(None);
        rig.pinning.map(rig.dma.clone());
        rig.go_on.send(()).unwrap();
        rig.pinning.wait(3 * GIB).unwrap();
        let (pinning, go_on) = (rig.pinning, rig.go_on);
        let ending = thread::spawn(move || drop(pinning));
        thread::sleep(SHORT);
        // The piece that it is at.
        go_on.send(()).unwrap();
        ending.join().unwrap();
        let mapped = rig.slow.mapped.lock().unwrap();
        // It may have heard before it began with the second.
        assert!([0, GIB].starts_with(&mapped), "{mapped:?}");
    }
}
