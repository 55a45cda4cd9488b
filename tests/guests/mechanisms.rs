//! `--vfio ADDR,mmap=off` and `irqfd=off`: a guest sees no difference, and the counters show what
//! each mechanism is worth.

use std::sync::Arc;

use iced_x86::code_asm::{dword_ptr, eax};
use mini_vmm::report::Report;
use vmm::config::mechanisms::Mechanisms;
use vmm::counters::wakeups::Wakeups;
use vmm::machine::MachineError;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{ACKNOWLEDGE, ASK, BAR0, DOORBELL, FakeDevice};
use crate::irq_code::{ENABLE, MSI_64, MSI_ENABLE};
use crate::pci::MEMORY;
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    each_access_to_a_bar_is_an_exit,
    a_hundred_messages_are_a_hundred_wakeups,
    a_hundred_levels_are_two_hundred_wakeups,
    another_instruction_ends_with_its_bytes,
];

/// Every combination of the two switches.
const ALL: [Mechanisms; 4] = [
    Mechanisms::ALL,
    Mechanisms {
        mmap: false,
        irqfd: true,
    },
    Mechanisms {
        mmap: true,
        irqfd: false,
    },
    Mechanisms {
        mmap: false,
        irqfd: false,
    },
];

const V: u8 = 0x41;
/// The pin of the IOAPIC that INTA of slot 1 leads to.
const PIN: u32 = 17;

fn run(device: &Arc<FakeDevice>, mechanisms: Mechanisms, g: Asm) -> (Report, Vec<u32>) {
    let vm = Vm::new(g).device_with(device, mechanisms).measured();
    let ended = vm.run();
    (ended.report.clone(), ended.numbers())
}

fn wakeups(report: &Report) -> Wakeups {
    report.devices[0].wakeups
}

/// Exits at registers of BAR 0: offset, whether the guest wrote, and how often.
fn exits_of_bar_0(report: &Report) -> Vec<(&str, bool, u64)> {
    let registers = report.exits.registers.iter();
    let mut exits: Vec<_> = registers
        .filter(|r| r.range.as_deref() == Some("0000:00:01.0 BAR 0"))
        .map(|r| (r.offset.as_deref().unwrap(), r.write, r.count))
        .collect();
    exits.sort_unstable();
    exits
}

fn each_access_to_a_bar_is_an_exit() {
    for mechanisms in ALL {
        let device = FakeDevice::new().into_arc();
        device.poke(0, 0x40, 0x1122_3344);
        let mut g = Asm::new();
        g.command(MEMORY);
        g.repeat(3, |g| {
            g.store32(BAR0 + 0x1ffc, 0x5566_7788);
        });
        g.show(BAR0 + 0x1ffc);
        g.load(Width::Byte, BAR0 + 0x41).print_eax();
        g.load(Width::Word, BAR0 + 0x42).print_eax();
        // A register's read and write in one instruction, and one across two pages.
        g.inc32(BAR0 + 0x40).lock_inc32(BAR0 + 0x40);
        g.store32(BAR0 + 0xffe, 0x99aa_bbcc).power_off();
        let (report, numbers) = run(&device, mechanisms, g);
        assert_eq!(numbers, [0x5566_7788, 0x33, 0x1122]);
        assert_eq!(device.peek(0, 0x40), 0x1122_3346);
        assert_eq!(device.peek(0, 0xffe), 0x99aa_bbcc);
        let expected = [
            ("0x1000", true, 1),
            ("0x1ffc", false, 1),
            ("0x1ffc", true, 3),
            ("0x40", false, 2),
            ("0x40", true, 2),
            ("0x41", false, 1),
            ("0x42", false, 1),
            ("0xffe", true, 1),
        ];
        let expected = if mechanisms.mmap {
            &[][..]
        } else {
            &expected[..]
        };
        assert_eq!(exits_of_bar_0(&report), expected, "{mechanisms:?}");
        assert_eq!(wakeups(&report), Wakeups::default());
    }
}

fn a_hundred_messages_are_a_hundred_wakeups() {
    for msi in [false, true] {
        for mechanisms in ALL {
            let device = FakeDevice::new().with_msi(MSI_64).into_arc();
            let mut g = Asm::new();
            g.interrupts(&[V]).command(MEMORY);
            if msi {
                g.msi_message(MSI_64, V.into()).msi_control(MSI_ENABLE);
            } else {
                g.msix_control(ENABLE).unmask_with(0, V);
            }
            for count in 1..=100 {
                g.store32(DOORBELL, 0).await_count(V, count);
            }
            g.power_off();
            let (report, _) = run(&device, mechanisms, g);
            let delivered = if mechanisms.irqfd { 0 } else { 100 };
            let expected = Wakeups {
                delivered,
                unmasked: 0,
            };
            assert_eq!(wakeups(&report), expected, "MSI {msi}, {mechanisms:?}");
        }
    }
}

/// One to raise each level, and one to unmask the pin after it. A KVM without hardware support may
/// end a level before the handler does; the level then comes once more.
fn a_hundred_levels_are_two_hundred_wakeups() {
    for mechanisms in ALL {
        let device = FakeDevice::new().with_resampled_pin().into_arc();
        let mut g = Asm::new();
        g.level_handler(V, ACKNOWLEDGE).interrupts(&[]);
        g.ioapic_level(PIN, V).command(MEMORY);
        for _ in 0..100 {
            g.store32(ASK, 1);
            let again = g.here();
            g.pause().load32(ASK).cmp_eax(0).jne(again);
        }
        g.power_off();
        let (report, _) = run(&device, mechanisms, g);
        let Wakeups {
            delivered,
            unmasked,
        } = wakeups(&report);
        if mechanisms.irqfd {
            assert_eq!((delivered, unmasked), (0, 0));
            assert!(device.resampled() >= 100);
        } else {
            assert!((100..=200).contains(&delivered), "{delivered}");
            // The guest may power off before the last acknowledgement is handled.
            assert!((delivered - 1..=200).contains(&unmasked), "{unmasked}");
            assert_eq!(device.resampled(), 0);
        }
    }
}

/// KVM's emulator does not know POPCNT. The processor does, except where KVM emulates every
/// instruction of a guest without paging.
fn another_instruction_ends_with_its_bytes() {
    for mechanisms in ALL {
        let device = FakeDevice::new().into_arc();
        device.poke(0, 0x40, 0x0f0f);
        let mut g = Asm::new();
        g.command(MEMORY);
        g.code(|a| a.popcnt(eax, dword_ptr(BAR0 + 0x40)));
        g.print_eax().power_off();
        let ended = Vm::new(g).device_with(&device, mechanisms).run();
        let error = match ended.exit {
            Ok(_) => {
                assert!(mechanisms.mmap);
                assert_eq!(ended.numbers(), [8]);
                continue;
            }
            Err(error) => error,
        };
        if mechanisms.mmap {
            assert!(matches!(error, MachineError::Broken(_)), "{error:?}");
            assert_eq!(error.hint(), None);
            continue;
        }
        assert!(matches!(error, MachineError::Trapped(_)), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("instruction f3 0f b8 05 40 00 00 c0"),
            "{text}"
        );
        assert!(error.hint().unwrap().contains("remove mmap=off"));
    }
}
