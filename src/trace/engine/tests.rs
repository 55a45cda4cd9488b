use super::*;
use crate::watch::thread;

/// Numbers that no thread of the machine has: at most 2^22 (proc(5), pid_max).
const COMMAND: i32 = 1 << 30;
const OTHER: i32 = COMMAND + 1;
const CHILD: i32 = COMMAND + 2;

/// Two processes, of which these are in fork(2).
fn with_engine(forking: &[i32], test: impl FnOnce(&mut Engine<'_>)) {
    let mut world = World::default();
    let threads = [COMMAND, OTHER].map(|tid| (tid, world.first(tid)));
    let mut engine = Engine {
        world: &mut world,
        threads: HashMap::from(threads),
        early: Vec::new(),
        command: COMMAND,
        started: Started::default(),
        until: Until::Call,
        end: None,
        ticks: false,
    };
    for tid in forking {
        fork(&mut engine, *tid);
    }
    test(&mut engine);
}

fn fork(engine: &mut Engine<'_>, tid: i32) {
    engine.threads.get_mut(&tid).unwrap().call = Some(thread::Started {
        number: libc::SYS_fork as u64,
        args: [0; 6],
        time: clock::now(),
        what: What::Clone(0),
    });
}

fn waits(engine: &Engine<'_>) -> bool {
    let early = engine.early.iter().any(|early| early.0 == CHILD);
    assert_ne!(early, engine.threads.contains_key(&CHILD));
    early
}

#[test]
fn a_child_that_stops_after_its_parents_end_goes_on() {
    with_engine(&[OTHER], |engine| {
        engine.change(OTHER, Change::Killed(libc::SIGKILL));
        engine.change(CHILD, Change::Continued);
        assert!(!waits(engine));
    });
}

#[test]
fn a_child_that_stops_before_its_parents_end_goes_on() {
    with_engine(&[OTHER], |engine| {
        engine.change(CHILD, Change::Continued);
        assert!(waits(engine));
        engine.change(OTHER, Change::Killed(libc::SIGKILL));
        assert!(!waits(engine));
    });
}

#[test]
fn a_child_whose_parents_thread_another_threads_exec_has_ended_goes_on() {
    with_engine(&[OTHER], |engine| {
        engine.threads.get_mut(&OTHER).unwrap().pid = COMMAND;
        engine.change(CHILD, Change::Continued);
        assert!(waits(engine));
        engine.change(COMMAND, Change::Event(libc::PTRACE_EVENT_EXEC));
        assert!(!waits(engine));
    });
}

#[test]
fn a_child_waits_for_its_living_parents_event_through_another_threads_end() {
    with_engine(&[COMMAND], |engine| {
        engine.change(CHILD, Change::Continued);
        engine.change(OTHER, Change::Exited(0));
        assert!(waits(engine));
        engine.child(COMMAND, CHILD);
        assert!(!waits(engine));
    });
}

#[test]
fn no_child_waits_for_calls_that_began_later_or_have_had_their_event() {
    with_engine(&[COMMAND, OTHER], |engine| {
        // As in vfork(2): the event has come, and the call lasts.
        engine.child(COMMAND, CHILD + 1);
        engine.change(CHILD, Change::Continued);
        assert!(waits(engine));
        engine.change(OTHER, Change::Killed(libc::SIGKILL));
        assert!(!waits(engine));
    });
    with_engine(&[OTHER], |engine| {
        engine.change(CHILD, Change::Continued);
        while clock::now() <= engine.early[0].1 {}
        fork(engine, COMMAND);
        engine.change(OTHER, Change::Killed(libc::SIGKILL));
        assert!(!waits(engine));
    });
}
