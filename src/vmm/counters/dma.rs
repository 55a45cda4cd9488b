//! Counts the guest memory that was mapped for devices, and the time that mapping took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// Counts the maps of one kind.
#[derive(Debug, Default)]
pub struct MapMeter {
    maps: AtomicU64,
    bytes: AtomicU64,
    ns: AtomicU64,
}

/// Counts the maps of RAM and those of BARs.
#[derive(Debug, Default)]
pub struct DmaMeter {
    /// The guest's RAM.
    pub ram: MapMeter,
    /// BARs, for peer-to-peer DMA.
    pub bars: MapMeter,
}

/// The figures of a meter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Maps {
    /// Regions of guest memory that were mapped completely, each in one call or several.
    pub maps: u64,
    /// Bytes that were mapped.
    pub bytes: u64,
    /// The sum of their durations in microseconds.
    pub us: u64,
    /// GiB per second; null if nothing was mapped.
    pub gib_per_s: Option<f64>,
}

impl MapMeter {
    /// Counts one region of `bytes` bytes, which took `took` to map.
    pub fn count(&self, bytes: u64, took: Duration) {
        self.maps.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The current figures.
    pub fn maps(&self) -> Maps {
        let [maps, bytes, ns] =
            [&self.maps, &self.bytes, &self.ns].map(|c| c.load(Ordering::Relaxed));
        let gib = bytes as f64 / (1u64 << 30) as f64;
        Maps {
            maps,
            bytes,
            us: ns / 1000,
            gib_per_s: (maps > 0 && ns > 0).then(|| gib / (ns as f64 / 1e9)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_bytes_by_time() {
        let meter = MapMeter::default();
        assert_eq!(meter.maps(), Maps::default());
        meter.count(3 << 30, Duration::from_millis(500));
        meter.count(1 << 30, Duration::from_millis(1500));
        let maps = meter.maps();
        assert_eq!((maps.maps, maps.bytes, maps.us), (2, 4 << 30, 2_000_000));
        assert_eq!(maps.gib_per_s, Some(2.0));
    }
}
