//! An add that fails at a step, or that nobody waits for any more, is undone.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vmm::plug::{AddError, Refusal};
use vmm::run_events::RunEvent;

use crate::Test;
use crate::common::asm::Asm;
use crate::device::{Call, FakeDevice};
use crate::plug_guest::{
    LISTEN, NAME, OFF, SLOT_CONTROL, add, device, events, is_closed, numbers, only_hot_reset,
};
use crate::plug_host::{PlugHost, Step, request};
use crate::ports::{BEHIND, PORT};
use crate::vm::{Vm, eventually};

pub const TESTS: &[Test] = tests![
    each_step_that_fails_is_undone,
    an_end_and_a_client_that_leaves_undo_an_add,
    what_does_not_fit_is_refused_at_once,
];

fn each_step_that_fails_is_undone() {
    use Step::{Claim, GiveBack, Limits, Look, Map, Open, Unmap};
    let all = [Look, Limits, Claim, Open, Map];
    for (failing, undone) in [
        (Look, &[][..]),
        (Limits, &[]),
        (Claim, &[]),
        (Open, &[GiveBack]),
        (Map, &[Unmap, GiveBack]),
    ] {
        let device = device(NAME, 1);
        let host = Arc::new(PlugHost::new(&[&device]).failing(failing));
        let e = refused(&host);
        assert_eq!(e.to_string(), format!("{failing:?} fails"));
        assert_eq!(e.hint().as_deref(), Some("a remedy"));
        let at = all.iter().position(|step| *step == failing).unwrap();
        assert_eq!(host.steps(), [&all[..=at], undone].concat(), "{failing:?}");
        assert!(is_closed(&device), "{failing:?}");
    }
    // The host asks for the device meanwhile.
    let wanted = with_event(1);
    let host = Arc::new(PlugHost::new(&[&wanted]));
    let e = refused(&host);
    assert!(matches!(e, AddError::Wanted(_)), "{e}");
    assert!(is_closed(&wanted));
    // The device reports an error meanwhile.
    let failed = with_event(0);
    let host = Arc::new(PlugHost::new(&[&failed]));
    let e = refused(&host);
    assert!(matches!(e, AddError::Failed(_)), "{e}");
    assert!(is_closed(&failed));
    // A device that does not answer, and one that refuses an event, are seen as functions.
    let dead = device(NAME, 1);
    dead.die();
    let host = Arc::new(PlugHost::new(&[&dead]));
    assert!(refused(&host).to_string().contains("does not answer"));
    assert_eq!(host.steps(), [&all[..], &[Unmap, GiveBack]].concat());
    assert!(is_closed(&dead));
}

/// A device with only a hot reset, at which an event comes.
fn with_event(which: usize) -> Arc<FakeDevice> {
    let mut device = FakeDevice::new().on_call(move |device, call| {
        if *call == Call::HotReset {
            device.device_event(which);
            // The thread of events hears of it.
            thread::sleep(Duration::from_millis(200));
        }
    });
    device.resets = only_hot_reset();
    device.into_arc()
}

/// Why the host's device cannot be added. The guest sees nothing of the attempt.
fn refused(host: &Arc<PlugHost>) -> AddError {
    let mut g = Asm::new();
    g.slot_control(OFF | LISTEN).print("ready\n").wait_key();
    g.show_at(PORT, SLOT_CONTROL).show_at(BEHIND, 0).power_off();
    let mut error = None;
    let run = Vm::new(g).ports("1,io=on").host(host).run_beside(|live| {
        live.wait_for("ready\n");
        let seen = events(live);
        let (slots, maps) = (live.slots(), live.control.dma_maps());
        error = add(live).err();
        assert_eq!((live.slots(), live.control.dma_maps()), (slots, maps));
        assert!(live.control.functions().is_empty());
        let added = |e: &RunEvent| matches!(e, RunEvent::DeviceAdded { .. });
        assert!(!seen.lock().unwrap().iter().any(added));
        live.press_key();
    });
    assert_eq!(numbers(&run.powered_off()), [OFF | LISTEN, u32::MAX]);
    error.expect("the add fails")
}

fn an_end_and_a_client_that_leaves_undo_an_add() {
    // The client leaves at the second step, and in the middle of the maps.
    for last in [Step::Limits, Step::Claim, Step::Open, Step::Map] {
        let device = device(NAME, 1);
        let gone = Arc::new(Mutex::new(false));
        let leaves = Arc::clone(&gone);
        let host = PlugHost::new(&[&device]);
        let host = Arc::new(host.at(move |step| {
            if step == last {
                *leaves.lock().unwrap() = true;
            }
        }));
        let mut g = Asm::new();
        g.wait_key().show_at(BEHIND, 0).power_off();
        let run = Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
            let gone = || *gone.lock().unwrap();
            let e = live.control.add(&request(&["01:00.0"]), &gone).unwrap_err();
            assert!(matches!(e, AddError::Gone), "{last:?}: {e}");
            live.press_key();
        });
        assert_eq!(numbers(&run.powered_off()), [u32::MAX]);
        assert!(is_closed(&device), "{last:?}");
        let open = matches!(last, Step::Open | Step::Map);
        assert_eq!(host.steps().contains(&Step::Unmap), open, "{last:?}");
        let claimed = open || last == Step::Claim;
        assert_eq!(host.steps().contains(&Step::GiveBack), claimed, "{last:?}");
    }
    // The run ends while memory is mapped.
    let device = device(NAME, 1);
    let ended = Arc::new(Mutex::new(None));
    let control: Arc<Mutex<Option<vmm::control::Control>>> = Arc::default();
    let ends = Arc::clone(&control);
    let host = Arc::new(PlugHost::new(&[&device]).at(move |step| {
        if step == Step::Map {
            let control = ends.lock().unwrap().clone().unwrap();
            control.shut_down();
            eventually("the end", || control.events().ended().is_some());
        }
    }));
    let mut g = Asm::new();
    g.hang();
    let told = Arc::clone(&ended);
    let run = Vm::new(g)
        .ports("1,io=on")
        .host(&host)
        .run_beside(move |live| {
            *control.lock().unwrap() = Some(live.control.clone());
            *told.lock().unwrap() = add(live).err();
        });
    run.exit.unwrap();
    let e = ended.lock().unwrap().take().unwrap();
    assert!(matches!(e, AddError::Ended), "{e}");
    assert!(host.steps().ends_with(&[Step::Unmap, Step::GiveBack]));
    assert!(is_closed(&device));
}

fn what_does_not_fit_is_refused_at_once() {
    let (first, second) = (device(NAME, 1), device("0000:02:00.0", 2));
    let host = PlugHost::new(&[&first, &second]);
    host.large.store(true, std::sync::atomic::Ordering::Relaxed);
    let host = Arc::new(host);
    let mut g = Asm::new();
    g.wait_key().power_off();
    Vm::new(g).ports("1,io=on").host(&host).run_beside(|live| {
        let e = add(live).unwrap_err();
        // More than there is below 4 GiB for all ports.
        assert!(e.hint().unwrap().ends_with("--vfio 0000:01:00.0"), "{e}");
        assert_eq!(host.steps(), [Step::Look]);
        host.large
            .store(false, std::sync::atomic::Ordering::Relaxed);
        add(live).unwrap();
        let again = add(live).unwrap_err();
        assert!(matches!(again, AddError::Present(_)), "{again}");
        let full = live.control.add(&request(&["02:00.0"]), &|| false);
        assert!(matches!(full, Err(AddError::Full { count: 1, .. })));
        let on_root = live.control.add(&request(&["02:00.0,port=off"]), &|| false);
        assert_eq!(on_root.unwrap_err().kind(), Refusal::Request);
        live.press_key();
    });
}
