use proptest::prelude::*;

use super::*;

#[test]
fn small_memory_stays_low() {
    let l = Layout::new(512 << 20, 0, 40).unwrap();
    assert_eq!(
        l.low_ram,
        Range {
            start: 0,
            size: 512 << 20
        }
    );
    assert_eq!(l.high_ram, None);
    assert!(l.mmio64.start >= HIGH_RAM_START);
}

#[test]
fn memory_is_split_at_the_hole() {
    let l = Layout::new(4 << 30, 0, 40).unwrap();
    assert_eq!(l.low_ram.end(), MMIO32_START);
    assert_eq!(
        l.high_ram,
        Some(Range {
            start: HIGH_RAM_START,
            size: 1 << 30
        })
    );
}

#[test]
fn large_bars_find_a_window() {
    // Two devices of 128 GiB and a little more: above 1 TiB where the processor reaches that
    // far, tightly after RAM where it does not.
    let bars = (256 << 30) + (1 << 20);
    let far = Layout::new(16 << 30, bars, 46).unwrap().mmio64;
    assert_eq!((far.start, far.size), (1 << 40, 1 << 40));
    let near = Layout::new(16 << 30, 256 << 30, 39).unwrap().mmio64;
    assert_eq!((near.start, near.size), (256 << 30, 256 << 30));
    assert!(matches!(
        Layout::new(16 << 30, bars, 39),
        Err(LayoutError::NoWindow { .. })
    ));
}

const AMD_46: Reach = Reach {
    bits: 46,
    amd: true,
};

/// An IOMMU of 39 bits under a processor of 46, the MSI range left out.
#[test]
fn the_window_is_where_the_iommu_reaches() {
    let ranges = [
        Range::inclusive(0, 0xfedf_ffff).unwrap(),
        Range::inclusive(0xfef0_0000, (1 << 39) - 1).unwrap(),
    ];
    let bars = 200 << 30;
    let l = Layout::new(16 << 30, bars, AMD_46).unwrap();
    assert!(l.mmio64.start >= 1 << 40);
    let near = l.with_bars(bars, AMD_46, &ranges).unwrap();
    assert_eq!(near.mmio64.start, 256 << 30);
    assert!(near.mmio64.end() <= 1 << 39);
    assert_eq!(
        Layout {
            mmio64: l.mmio64,
            ..near
        },
        l,
        "nothing else moves"
    );
    // BARs that do not fit there, or an IOMMU that does not tell its ranges, change nothing.
    let l = Layout::new(16 << 30, 400 << 30, AMD_46).unwrap();
    assert_eq!(l.with_bars(400 << 30, AMD_46, &ranges), Ok(l));
    assert_eq!(l.with_bars(400 << 30, AMD_46, &[]), Ok(l));
}

/// Without the HyperTransport range, addresses below 1 TiB are like any other.
#[test]
fn windows_of_both_makers() {
    let window = |memory: u64, reach: Reach| {
        let window = Layout::new(memory << 30, 200 << 30, reach).unwrap().mmio64;
        (window.start >> 30, window.size >> 30)
    };
    assert_eq!(window(16, 46.into()), (512, 512));
    assert_eq!(window(16, AMD_46), (1024, 512));
    assert_eq!(window(1020, 46.into()), (1024, 512));
    // RAM ends at 1033 GiB.
    assert_eq!(window(1020, AMD_46), (1536, 512));
}

/// The last 12 GiB of AMD's addresses are not a guest's.
#[test]
fn the_end_of_the_addresses() {
    let far = |bits, amd| Layout::new(1000 << 30, 0, Reach { bits, amd });
    assert!(
        Layout::new(
            500 << 30,
            0,
            Reach {
                bits: 39,
                amd: true
            }
        )
        .is_ok()
    );
    assert!(far(40, false).is_ok_and(|l| l.mmio64.end() <= 1 << 40));
    assert!(far(40, true).is_ok_and(|l| l.mmio64.end() <= HYPERTRANSPORT_START));
    let all = Layout::new(
        1011 << 30,
        0,
        Reach {
            bits: 40,
            amd: true,
        },
    );
    assert!(matches!(all, Err(LayoutError::NoWindow { .. })));
    let e = Layout::new(
        1013 << 30,
        0,
        Reach {
            bits: 40,
            amd: true,
        },
    );
    let limit = HYPERTRANSPORT_START;
    assert_eq!(
        e,
        Err(LayoutError::TooLarge {
            memory: 1013 << 30,
            limit
        })
    );
}

#[test]
fn refuses_what_does_not_fit() {
    assert_eq!(
        Layout::new(1 << 20, 0, 40),
        Err(LayoutError::TooSmall(1 << 20))
    );
    assert!(matches!(
        Layout::new(64 << 30, 0, 36),
        Err(LayoutError::TooLarge { .. })
    ));
    assert!(matches!(
        Layout::new(1 << 52, 0, 52),
        Err(LayoutError::TooLarge { .. })
    ));
    assert!(matches!(
        Layout::new(1 << 30, u64::MAX, 46),
        Err(LayoutError::NoWindow { .. })
    ));
    assert!(matches!(
        Layout::new(u64::MAX, 0, 52),
        Err(LayoutError::TooLarge { .. })
    ));
}

proptest! {
    #[test]
    fn nothing_overlaps(
        memory in prop_oneof![
            MIN_MEMORY..(900u64 << 30),
            (900u64 << 30)..(1100 << 30),
            (1u64 << 40)..(1 << 46),
        ],
        bars in 0u64..(64 << 30),
        bits in 36u8..=52,
        amd in any::<bool>(),
    ) {
        let reach = Reach { bits, amd };
        if let Ok(l) = Layout::new(memory, bars, reach) {
            prop_assert_eq!(l.ram().map(|r| r.size).sum::<u64>(), memory);
            prop_assert!(l.low_ram.end() <= MMIO32_START);
            let mut top = HIGH_RAM_START;
            for ram in l.ram().skip(1) {
                prop_assert!(ram.start >= top && ram.size > 0);
                top = ram.end();
            }
            prop_assert!(l.mmio64.start >= top);
            prop_assert!(l.mmio64.size >= bars);
            prop_assert!(l.mmio64.end() <= 1u64 << bits);
            let outside = |r: Range| {
                r.end() <= HYPERTRANSPORT_START || r.start >= HYPERTRANSPORT_END
            };
            prop_assert!(!amd || l.ram().chain([l.mmio64]).all(outside));
            prop_assert!(amd || l.far_ram.is_none());
            prop_assert_eq!(l.mmio64.start % GIB, 0);
            let half = Range { start: 0, size: 1 << (bits - 1) };
            let near = l.with_bars(bars, reach, &[half]).unwrap().mmio64;
            prop_assert!(near == l.mmio64 || half.contains(near.start, near.size));
            prop_assert!(near.start >= top && near.size >= bars);
        }
    }
}

#[test]
fn no_function_behind_a_port_has_the_interrupt_of_a_slot() {
    let at = |bus, device, function| Bdf {
        segment: 0,
        bus,
        device,
        function,
    };
    assert_eq!(pin_and_gsi(at(0, 5, 1), None), (1, 16 + 2));
    assert_eq!(pin_and_gsi(at(0, 5, 3), None), (SLOT_PIN, GSI_INTD));
    // INTA of function 0, and INTB of function 7, behind the port at 05.3.
    assert_eq!(pin_and_gsi(at(1, 0, 0), Some(at(0, 5, 3))), (0, 16 + 1));
    assert_eq!(pin_and_gsi(at(1, 0, 7), Some(at(0, 5, 3))), (1, 16 + 2));
    // Of no slot: a thread of one slot may wait for a driver that waits for another's.
    for (slot, function) in (1..32).flat_map(|slot| (0..8).map(move |f| (slot, f))) {
        let (_, gsi) = pin_and_gsi(at(1, 0, function), Some(at(0, slot, 0)));
        assert!((GSI_INTX_BASE..GSI_POWER_BUTTON).contains(&gsi));
        assert_eq!(gsi_of_pin(slot, SLOT_PIN), GSI_INTD);
    }
}
