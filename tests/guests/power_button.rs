//! The power button: an edge on a pin of its own.

use std::thread;
use std::time::Duration;

use vmm::layout::GSI_POWER_BUTTON;

use crate::Test;
use crate::common::asm::Asm;
use crate::irq_code::counter;
use crate::vm::{Live, Vm};

pub const TESTS: &[Test] = tests![
    each_press_is_one_interrupt,
    a_press_before_the_guest_listens_is_lost,
    the_button_works_after_a_reset,
];

const V: u8 = 0x41;

fn listen(g: &mut Asm) -> &mut Asm {
    g.interrupts(&[V]).ioapic_edge(GSI_POWER_BUTTON, V)
}

fn press(live: &Live) {
    live.power_button.press().unwrap();
}

/// The second press comes when the guest has handled the first: KVM joins presses in between, as it
/// does with every edge.
fn each_press_is_one_interrupt() {
    let mut g = Asm::new();
    listen(&mut g).print("listening\n");
    for count in [1, 2] {
        g.await_count(V, count).show_count(V);
    }
    g.power_off();
    let ended = Vm::new(g).run_beside(|live| {
        live.wait_for("listening");
        let exits = live.exits();
        press(live);
        live.wait_for("00000001");
        // No exit but those that print the count.
        let (_, memory) = live.exits();
        assert_eq!(memory, exits.1);
        press(live);
    });
    assert_eq!(ended.powered_off(), "listening\n00000001\n00000002\n");
}

fn a_press_before_the_guest_listens_is_lost() {
    let mut g = Asm::new();
    g.interrupts(&[V]).print("deaf\n").wait_key();
    g.ioapic_edge(GSI_POWER_BUTTON, V).show_count(V);
    g.print("listening\n").await_count(V, 1).show_count(V);
    g.power_off();
    let ended = Vm::new(g).run_beside(|live| {
        live.wait_for("deaf");
        press(live);
        // KVM raises a pin on a thread of its own, and nothing shows that it has done so.
        thread::sleep(Duration::from_millis(200));
        live.press_key();
        live.wait_for("listening");
        press(live);
    });
    assert_eq!(ended.powered_off(), "deaf\n00000000\nlistening\n00000001\n");
}

/// RAM keeps the first boot's count of the handler.
fn the_button_works_after_a_reset() {
    let mut g = Asm::new();
    let again = g.label();
    g.load32(counter(V)).cmp_eax(1).je(again);
    listen(&mut g).print("first\n").await_count(V, 1).reset();
    g.bind(again);
    listen(&mut g).print("second\n");
    g.await_count(V, 2).show_count(V).power_off();
    let ended = Vm::new(g).run_beside(|live| {
        for boot in ["first", "second"] {
            live.wait_for(boot);
            press(live);
        }
    });
    assert_eq!(ended.powered_off(), "first\nsecond\n00000002\n");
}
