//! What another thread asks of a running VM: pauses, resets, and what its functions look like.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use iced_x86::code_asm::{dword_ptr, eax};
use mini_vmm::control::pci::Tree;
use vmm::control::{ControlError, ControlRequest, RunState};
use vmm::run_events::RunEvent;
use vmm::vcpu::pause::PauseError;
use vmm::vfio::view::Kind;

use crate::Test;
use crate::common::asm::Asm;
use crate::common::schema::{check, openapi};
use crate::device::{BAR0, BAR1, Call, FakeDevice, PBA, TABLE};
use crate::irq_code::ENABLE;
use crate::pci::{MASTER, MEMORY, SLOT};
use crate::vm::{Live, Vm, eventually};

pub const TESTS: &[Test] = tests![
    nothing_runs_in_a_pause,
    interrupts_gather_in_a_pause,
    a_pause_in_the_middle_of_an_access,
    a_reset_in_a_pause,
    a_paused_guest_is_rebooted,
    each_reboot_ends_a_pause,
    a_busy_vcpu_is_not_paused,
    events_come_after_what_they_tell,
    a_function_is_shown,
];

/// Words in a mapped page of the device, which a test reads and writes.
const COUNT: u32 = 0x800;
const END: u32 = 0x804;
const V: u8 = 0x41;

/// How often a paused guest is rebooted.
const REBOOTS: u32 = 300;

/// How long a test looks at what must not happen.
const A_WHILE: Duration = Duration::from_millis(30);

fn pause(live: &Live) {
    live.control.change(ControlRequest::Pause).unwrap();
    assert_eq!(live.control.state(), RunState::Paused);
}

fn resume(live: &Live) {
    live.control.change(ControlRequest::Resume).unwrap();
    assert_eq!(live.control.state(), RunState::Running);
}

/// The guest counts, on each of its processors, until the test tells it to end.
fn counting(processors: u32) -> Asm {
    let mut g = Asm::new();
    g.command(MEMORY);
    let (entry, start) = (g.label(), g.label());
    if processors > 1 {
        g.start_others(entry, 0x5_0000);
    }
    g.jmp(start).bind(entry);
    let again = g.here();
    g.lock_inc32(BAR0 + COUNT + 8).jmp(again).bind(start);
    let again = g.here();
    g.lock_inc32(BAR0 + COUNT)
        .load32(BAR0 + END)
        .cmp_eax(1)
        .jb(again);
    g.power_off();
    g
}

fn nothing_runs_in_a_pause() {
    for processors in [1, 3] {
        let device = FakeDevice::new().into_arc();
        let beside = Arc::clone(&device);
        let vm = Vm::new(counting(processors)).cpus(processors as u8);
        let ended = vm.device(&device).run_beside(|live| {
            let counts = || [0, 8].map(|at| beside.peek(0, u64::from(COUNT + at)));
            let run = |before: [u32; 2]| {
                let now = counts();
                now[0] != before[0] && (processors == 1 || now[1] != before[1])
            };
            eventually("it counts", || run([0, 0]));
            for _ in 0..20 {
                pause(live);
                let before = counts();
                thread::sleep(Duration::from_millis(3));
                assert_eq!(counts(), before, "a paused guest counts");
                resume(live);
                eventually("it counts on", || run(before));
            }
            beside.poke(0, END.into(), 1);
        });
        ended.powered_off();
    }
}

/// The guest does nothing until the device says so, and powers off.
fn until_end(g: &mut Asm) {
    let again = g.here();
    g.pause()
        .load32(BAR0 + END)
        .cmp_eax(1)
        .jb(again)
        .power_off();
}

fn interrupts_gather_in_a_pause() {
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    g.interrupts(&[]).handler(V, BAR0 + COUNT);
    g.command(MEMORY).msix_control(ENABLE).unmask_with(0, V);
    g.print("ready\n");
    until_end(&mut g);
    let beside = Arc::clone(&device);
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("ready\n");
        let count = || beside.peek(0, COUNT.into());
        for number in 0..10 {
            pause(live);
            // The device goes on: it writes memory, and sends its message.
            beside.raise(0);
            thread::sleep(A_WHILE / 10);
            assert_eq!(count(), number, "a paused guest handles an interrupt");
            resume(live);
            eventually("the interrupt arrives", || count() == number + 1);
        }
        beside.poke(0, END.into(), 1);
    });
    ended.powered_off();
}

/// Each access that leaves KVM is completed by the vCPU's next run: a pause between the two loses
/// neither a write nor what a read returns.
fn a_pause_in_the_middle_of_an_access() {
    const REGISTER: u32 = BAR1 + 0x20;
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    g.command(MEMORY);
    let (wrong, again) = (g.label(), g.here());
    g.inc32(BAR0 + COUNT)
        .load32(BAR0 + COUNT)
        .store_eax(REGISTER)
        .load32(REGISTER);
    g.store_eax(BAR0 + COUNT + 8);
    // Both words are read again: a lost write, or a read without an answer, makes them differ.
    g.load32(BAR0 + COUNT)
        .code(|a| a.cmp(eax, dword_ptr(BAR0 + COUNT + 8)))
        .jne(wrong);
    g.load32(BAR0 + END).cmp_eax(1).jb(again);
    g.print("same").power_off();
    g.bind(wrong).print("different").power_off();
    let beside = Arc::clone(&device);
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        let count = || beside.peek(0, COUNT.into());
        for _ in 0..100 {
            let before = count();
            eventually("it counts", || count() != before);
            pause(live);
            resume(live);
        }
        beside.poke(0, END.into(), 1);
    });
    assert_eq!(ended.powered_off(), "same");
}

/// A guest that is reset while it is paused waits before its first instruction.
fn a_reset_in_a_pause() {
    let device = FakeDevice::new().into_arc();
    let beside = Arc::clone(&device);
    let ended = Vm::new(counting(1)).device(&device).run_beside(|live| {
        let count = || beside.peek(0, COUNT.into());
        eventually("it counts", || count() > 0);
        pause(live);
        live.reset();
        eventually("the next boot", || live.control.events().boots() == 2);
        let before = count();
        thread::sleep(A_WHILE);
        assert_eq!((count(), live.control.state()), (before, RunState::Paused));
        resume(live);
        eventually("it counts", || count() != before);
        live.end();
    });
    ended.powered_off();
}

/// The pause ends even if the vCPUs of the next boot have not yet come to wait for its end.
fn each_reboot_ends_a_pause() {
    let device = FakeDevice::new().into_arc();
    let vm = Vm::new(counting(1)).cpus(4).device(&device);
    vm.run_beside(|live| {
        for _ in 0..REBOOTS {
            pause(live);
            live.control.change(ControlRequest::Reboot).unwrap();
            assert_eq!(
                live.control
                    .change(ControlRequest::Resume)
                    .unwrap_err()
                    .to_string(),
                PauseError::NotPaused.to_string()
            );
        }
        live.control.shut_down();
    });
}

fn a_paused_guest_is_rebooted() {
    let device = FakeDevice::new().into_arc();
    let beside = Arc::clone(&device);
    let ended = Vm::new(counting(2))
        .cpus(2)
        .device(&device)
        .run_beside(|live| {
            let count = || beside.peek(0, COUNT.into());
            eventually("it counts", || count() > 0);
            live.control.change(ControlRequest::Reboot).unwrap();
            pause(live);
            live.control.change(ControlRequest::Reboot).unwrap();
            assert_eq!(live.control.state(), RunState::Running);
            assert_eq!(live.control.events().boots(), 3);
            let before = count();
            eventually("it counts", || count() != before);
            assert_eq!(beside.count(&Call::Reset), 2);
            live.control.shut_down();
        });
    ended.exit.unwrap();
}

/// A vCPU that waits for a slow device does not stop; the others go on after ten seconds.
fn a_busy_vcpu_is_not_paused() {
    static READS: AtomicUsize = AtomicUsize::new(0);
    let device = FakeDevice::new();
    let device = device.on_call(|_, call| {
        if *call == Call::Read(1, 0x30, 4) && READS.fetch_add(1, Ordering::Relaxed) == 0 {
            thread::sleep(Duration::from_secs(12));
        }
    });
    let device = device.into_arc();
    let mut g = Asm::new();
    g.command(MEMORY).print("reads\n").load32(BAR1 + 0x30);
    let again = g.here();
    g.inc32(BAR0 + COUNT)
        .load32(BAR0 + END)
        .cmp_eax(1)
        .jb(again);
    g.power_off();
    let beside = Arc::clone(&device);
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("reads\n");
        eventually("the read", || READS.load(Ordering::Relaxed) == 1);
        let begun = Instant::now();
        let refused = live.control.change(ControlRequest::Pause);
        let busy = matches!(refused, Err(ControlError::Pause(PauseError::Busy(1))));
        assert!(busy, "{refused:?}");
        assert!(begun.elapsed() >= Duration::from_secs(10));
        assert_eq!(live.control.state(), RunState::Running);
        eventually("it counts", || beside.peek(0, COUNT.into()) > 0);
        beside.poke(0, END.into(), 1);
    });
    ended.powered_off();
}

fn events_come_after_what_they_tell() {
    let device = FakeDevice::new().into_arc();
    let beside = Arc::clone(&device);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let ended = Vm::new(counting(1)).device(&device).run_beside(|live| {
        let control = live.control.clone();
        live.control.events().observe(move |event| {
            let state = (control.state(), control.events().boots());
            told.lock().unwrap().push((event, state));
        });
        eventually("it counts", || beside.peek(0, COUNT.into()) > 0);
        pause(live);
        resume(live);
        live.control.change(ControlRequest::Reboot).unwrap();
        live.end();
    });
    ended.powered_off();
    let seen = seen.lock().unwrap();
    let expected = [
        (RunEvent::Paused, (RunState::Paused, 1)),
        (RunEvent::Resumed, (RunState::Running, 1)),
        (RunEvent::GuestReset, (RunState::Running, 2)),
        (RunEvent::Shutdown("power-off"), (RunState::Ended, 2)),
    ];
    assert_eq!(*seen, expected);
}

fn a_function_is_shown() {
    let device = FakeDevice::new().into_arc();
    let mut g = Asm::new();
    g.interrupts(&[V]).command(MEMORY | MASTER);
    g.msix_control(ENABLE).unmask_with(3, V);
    g.print("ready\n");
    until_end(&mut g);
    let beside = Arc::clone(&device);
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("ready\n");
        let functions = live.control.functions();
        let [(bdf, function)] = &functions[..] else {
            panic!("{} functions", functions.len());
        };
        assert_eq!((bdf.device, bdf.function), (SLOT, 0));
        let view = function.view();
        assert_eq!(u32::from(view.command) & 7, MEMORY | MASTER);
        assert!(view.reachable && view.in_d0);
        let bar = |index: usize| view.bars.iter().find(|bar| bar.index == index).unwrap();
        assert_eq!(bar(0).mapped, Some(BAR0.into()));
        assert_eq!((bar(0).address, bar(0).size), (BAR0.into(), 0x4000));
        // All but the pages with the table and the pending bits.
        let trapped = [TABLE, PBA].map(|at| u64::from(at - BAR0));
        let direct = &bar(0).direct;
        assert_eq!(direct.iter().map(|(_, size)| size).sum::<u64>(), 0x2000);
        let hits = |at: &u64| {
            direct
                .iter()
                .any(|(start, size)| (*start..start + size).contains(at))
        };
        assert!(!trapped.iter().any(hits), "{direct:?}");
        // I/O is off.
        assert_eq!(bar(2).mapped, None);
        let interrupts = &view.interrupts;
        assert_eq!(interrupts.kind, Kind::Msix);
        let vectors = &interrupts.msix.as_ref().unwrap().vectors;
        let vector = vectors[3];
        assert_eq!((vector.message.data, vector.masked), (V.into(), false));
        let irqfd = vector.irqfd.unwrap();
        assert!(irqfd.assigned && !irqfd.pending && irqfd.gsi >= 24);
        assert!(vectors[0].masked && vectors[0].irqfd.is_none());
        // The eventfd is this process's.
        let link = std::fs::read_link(format!("/proc/self/fd/{}", irqfd.eventfd)).unwrap();
        assert_eq!(link.to_str(), Some("anon_inode:[eventfd]"));
        let emulated = live.control.emulated();
        let (bridge, header) = emulated[0];
        assert_eq!((bridge.device, bridge.function), (0, 0));
        assert_eq!(header[0xb], 6, "the class of the host bridge");
        // What a client gets of it.
        let tree = serde_json::to_value(Tree::new(&live.control)).unwrap();
        let openapi = openapi();
        check(
            &openapi,
            &openapi["components"]["schemas"]["PciTree"],
            &tree,
            "the tree",
        );
        let shown = &tree["functions"][1]["device"]["interrupts"]["msix"]["vectors"][3];
        assert_eq!(shown["message"]["interrupt"], V);
        assert_eq!(shown["irqfd"]["gsi"], irqfd.gsi);
        beside.poke(0, END.into(), 1);
    });
    ended.powered_off();
}
