//! The kernel's events from a made-up tree of tracefs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::decode::value::Value;
use crate::event::{Body, Call, Event, Left, Names};
use crate::guest::vm::Meaning;
use crate::kernel::instance::{Instance, InstanceError, Wanted};
use crate::kernel::order::{Held, Losses, MOST, Order};
use crate::kernel::owner::Owner;
use crate::kernel::page::tests::{HEADER, page};
use crate::kernel::source::{Source, WANTED};

/// A tree. The kernel fills a new instance at once; here a link stands for that: all instances are
/// the same folder.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let name = format!("mini-vmm-tracefs-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        drop(fs::remove_dir_all(&root));
        fs::create_dir_all(root.join("instances")).unwrap();
        let tree = Self(root);
        tree.write("events/header_page", HEADER.as_bytes());
        tree
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn instances(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("instances")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn what_is_missing_is_told() {
    let tree = Tree::new("missing");
    let proc = Path::new("/proc");
    // The folder of the instance stays empty: no clock.
    let error = Instance::at(&tree.0, proc, &WANTED).unwrap_err();
    assert!(matches!(error, InstanceError::File(..)), "{error}");
    assert!(error.to_string().contains("trace_clock"), "{error}");
    assert!(tree.instances().is_empty(), "the instance is gone");
    tree.write("events/header_page", b"field: char lies;");
    let error = Instance::at(&tree.0, proc, &WANTED).unwrap_err();
    assert!(matches!(error, InstanceError::Unknown(_)), "{error}");
    let error = Instance::at(Path::new("/nowhere"), proc, &WANTED).unwrap_err();
    for error in [error, InstanceError::None, InstanceError::Permission] {
        assert!(
            error
                .to_string()
                .starts_with("no events of the kernel are shown")
        );
        assert!(!error.hint().is_empty());
    }
    let tree = Tree::new("permission");
    let instances = tree.0.join("instances");
    fs::set_permissions(&instances, fs::Permissions::from_mode(0o500)).unwrap();
    // Root may write whatever the mode is.
    let error = Instance::at(&tree.0, proc, &WANTED).unwrap_err();
    assert!(matches!(
        error,
        InstanceError::Permission | InstanceError::File(..)
    ));
}

#[test]
fn instances_of_killed_tracers_go_and_others_stay() {
    let tree = Tree::new("left");
    let own = Owner::own().name();
    let (pid, _) = own
        .strip_prefix("mini-vmm-trace-")
        .unwrap()
        .split_once('-')
        .unwrap();
    // A process of the same number that has started at another time is another.
    let left = format!("mini-vmm-trace-{pid}-1");
    let parent = fs::read_to_string(format!(
        "/proc/{}/stat",
        std::os::unix::process::parent_id()
    ));
    let start = parent.unwrap();
    let start = start
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(19)
        .unwrap()
        .to_string();
    let alive = format!(
        "mini-vmm-trace-{}-{start}",
        std::os::unix::process::parent_id()
    );
    for name in [left.as_str(), &alive, "perf", "mini-vmm-trace-old"] {
        fs::create_dir(tree.0.join("instances").join(name)).unwrap();
    }
    drop(Instance::at(&tree.0, Path::new("/proc"), &WANTED));
    let mut names = tree.instances();
    names.sort();
    let mut expected = vec![alive, "mini-vmm-trace-old".into(), "perf".into()];
    expected.sort();
    assert_eq!(names, expected);
}

const COMMON: &str = "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n";

fn format(id: u16, fields: &str) -> String {
    format!("ID: {id}\nformat:\n{COMMON}\n{fields}\nprint fmt: \"\"\n")
}

fn record(id: u16, tid: i32, value: u64) -> Vec<u8> {
    let mut record = id.to_le_bytes().to_vec();
    record.extend([0, 0]);
    record.extend(tid.to_le_bytes());
    record.extend(value.to_le_bytes());
    record
}

/// A source of two CPUs whose pages are these.
fn source(tree: &Tree, cpus: [Vec<u8>; 2]) -> Source {
    let of = format!("instances/{}", Owner::own().name());
    let vector = "\tfield:unsigned int vector;\toffset:8;\tsize:4;\tsigned:0;";
    let events = [
        ("raw_syscalls/sys_enter", format(10, "")),
        ("raw_syscalls/sys_exit", format(11, "")),
        ("kvm/kvm_inj_virq", format(12, vector)),
        ("kvm/kvm_apic_accept_irq", format(13, vector)),
    ];
    // The tree has what the kernel makes with a new instance.
    for (name, text) in events {
        tree.write(&format!("{of}/events/{name}/format"), text.as_bytes());
        for file in ["filter", "enable"] {
            tree.write(&format!("{of}/events/{name}/{file}"), b"");
        }
    }
    for file in ["trace_clock", "buffer_size_kb", "tracing_on"] {
        tree.write(&format!("{of}/{file}"), b"");
    }
    for (cpu, pages) in cpus.iter().enumerate() {
        tree.write(&format!("{of}/per_cpu/cpu{cpu}/trace_pipe_raw"), pages);
        let stats = b"entries: 1\noverrun: 3\ncommit overrun: 1\ndropped events: 1\n";
        tree.write(&format!("{of}/per_cpu/cpu{cpu}/stats"), stats);
    }
    let path = tree.0.join(&of);
    let instance = Instance::in_folder(&tree.0, path, &WANTED).unwrap();
    Source::of(instance)
}

/// The kernel records more.
fn append(tree: &Tree, cpu: u32, page: &[u8]) {
    let of = format!(
        "instances/{}/per_cpu/cpu{cpu}/trace_pipe_raw",
        Owner::own().name()
    );
    let file = fs::OpenOptions::new().append(true).open(tree.0.join(of));
    std::io::Write::write_all(&mut file.unwrap(), page).unwrap();
}

fn name(event: &Event) -> String {
    match &event.body {
        Body::Call(call) => call.name.to_string(),
        Body::Kernel(happened) => happened.name.to_string(),
        Body::Exit(_) => "exit".into(),
        _ => String::new(),
    }
}

/// What a look shows: times and names.
fn look(order: &mut Order, now: u64, idle: bool, held: &[Held]) -> Vec<(u64, String)> {
    let mut shown = Vec::new();
    order.look(now, idle, held, &mut |event| {
        shown.push((event.time, name(&event)));
    });
    shown
}

fn end(order: Order) -> (Vec<Event>, Losses) {
    let mut shown = Vec::new();
    let (losses, removed) = order.end(&mut |event| shown.push(event));
    // The folder of a tree is not empty, which the kernel's is for rmdir(2).
    assert!(
        matches!(removed, Err(InstanceError::Left(..))),
        "{removed:?}"
    );
    (shown, losses)
}

fn call(tid: i32, time: u64, took: u64, name: &'static str) -> Event {
    Event {
        time,
        took,
        pid: tid,
        tid,
        below: false,
        file: None,
        body: Body::Call(Call {
            name: name.into(),
            known: true,
            ins: Vec::new(),
            outs: Vec::new(),
            result: 0,
            makes: None,
            note: None,
            names: Names::default(),
            why: None,
        }),
    }
}

#[test]
fn calls_and_the_kernels_events_have_one_order() {
    let tree = Tree::new("order");
    // CPU 0: a call of thread 7 from 100 to 200; in between, CPU 1 accepts a vector for it.
    let first = page(
        90,
        &[(100, record(10, 7, 0)), (200, record(11, 7, 0))],
        None,
    );
    let second = page(
        100,
        &[
            (150, record(13, 0, 33)),
            (250, record(12, 7, 33)),
            (251, record(12, 99, 44)),
        ],
        Some(5),
    );
    let source = source(&tree, [first, second]);
    assert!(source.missing().contains(&"kvm:kvm_eoi".to_string()));
    assert!(
        !source.missing().iter().any(|name| name.contains("avic")),
        "optional"
    );
    let mut order = Order::new(source);
    order.calls().born(7, 6, 0);
    order.push(call(7, 90, 130, "write"));
    order.push(call(7, 240, 20, "untimed"));
    let (events, losses) = end(order);
    assert_eq!((losses.lost, losses.late), (2 * 5, 0));
    let seen: Vec<_> = events.iter().map(|e| (e.time, e.took, name(e))).collect();
    let expected = [
        (100, 100, "write"),
        (150, 0, "lost"),
        (150, 0, "kvm_apic_accept_irq"),
        (240, 20, "untimed"),
        (250, 0, "kvm_inj_virq"),
    ];
    assert_eq!(
        seen,
        expected.map(|(time, took, name)| (time, took, name.to_string()))
    );
    let Body::Kernel(happened) = &events[4].body else {
        panic!()
    };
    assert_eq!((happened.cpu, events[4].pid), (1, 6));
    assert_eq!(happened.fields[0].value, Value::Decimal(33));
    let written = |file: &str| {
        let of = format!("instances/{}/{file}", Owner::own().name());
        fs::read_to_string(tree.0.join(of)).unwrap()
    };
    assert_eq!(written("trace_clock"), "mono");
    assert_eq!(written("buffer_size_kb"), "4096");
    assert_eq!(written("tracing_on"), "0", "the last read has an end");
    let filter = written("events/raw_syscalls/sys_enter/filter");
    let own = format!("common_pid != {} && (id == 0 ", std::process::id());
    assert!(
        filter.starts_with(&own) && filter.contains("|| id == 16 "),
        "{filter}"
    );
}

#[test]
fn a_thread_that_moves_between_cpus_keeps_its_times() {
    let tree = Tree::new("moves");
    let first = [
        (100, record(10, 7, 0)),
        (300, record(11, 7, 0)),
        (500, record(10, 7, 0)),
        (510, record(11, 7, 0)),
    ];
    let second = [(200, record(11, 7, 0)), (250, record(10, 7, 0))];
    let source = source(&tree, [page(90, &first, None), page(90, &second, None)]);
    let mut order = Order::new(source);
    order.calls().born(7, 7, 0);
    for (time, took) in [(90, 120), (240, 70), (490, 30)] {
        order.push(call(7, time, took, "read"));
    }
    let times = end(order).0.into_iter();
    let times: Vec<_> = times.map(|event| (event.time, event.took)).collect();
    assert_eq!(times, [(100, 100), (250, 50), (500, 10)]);
}

const MS: u64 = 1_000_000;

/// Thread 7 is in a call from 2 to 4 ms; a vector is accepted at 3 and at 5 ms.
fn a_call_and_vectors(tree: &Tree) -> Order {
    let call = [(2 * MS, record(10, 7, 0)), (4 * MS, record(11, 7, 0))];
    let vectors = [(3 * MS, record(13, 0, 33)), (5 * MS, record(13, 0, 34))];
    let source = source(tree, [page(MS, &call, None), page(MS, &vectors, None)]);
    let mut order = Order::new(source);
    order.calls().born(7, 7, 0);
    order.calls().goes_on(7, Some(MS), MS);
    order
}

fn shown(events: &[(u64, &str)]) -> Vec<(u64, String)> {
    let events = events.iter();
    events
        .map(|(time, name)| (time * MS, name.to_string()))
        .collect()
}

const ACCEPTED: &str = "kvm_apic_accept_irq";

#[test]
fn a_late_tracer_changes_no_order() {
    let tree = Tree::new("late");
    let mut order = a_call_and_vectors(&tree);
    // The tracer is late by half a second: it has not seen the end of the call.
    for now in [500 * MS, 510 * MS, 5000 * MS] {
        assert_eq!(look(&mut order, now, true, &[]), [], "{now}");
    }
    order.push(call(7, MS, 5001 * MS, "write"));
    order.calls().goes_on(7, None, 5002 * MS);
    // The records until then are settled a little later.
    assert_eq!(look(&mut order, 5010 * MS, true, &[]), []);
    let all = shown(&[(2, "write"), (3, ACCEPTED), (5, ACCEPTED)]);
    assert_eq!(look(&mut order, 5060 * MS, true, &[]), all);
    assert_eq!(end(order).1.late, 0);
}

#[test]
fn a_call_that_is_long_by_the_kernels_clock_is_late_and_counted() {
    let tree = Tree::new("long");
    let mut order = a_call_and_vectors(&tree);
    let enter = page(6 * MS, &[(10 * MS, record(10, 7, 0))], None);
    append(&tree, 0, &enter);
    order.push(call(7, MS, 4 * MS, "write"));
    order.calls().goes_on(7, None, 5 * MS);
    order.calls().goes_on(7, Some(6 * MS), 6 * MS);
    let all = shown(&[(2, "write"), (3, ACCEPTED), (5, ACCEPTED)]);
    assert_eq!(look(&mut order, 109 * MS, true, &[]), all);
    append(
        &tree,
        1,
        &page(10 * MS, &[(11 * MS, record(13, 0, 35))], None),
    );
    assert_eq!(look(&mut order, 109 * MS + 1, true, &[]), [], "for 50 ms");
    assert_eq!(
        look(&mut order, 120 * MS, true, &[]),
        shown(&[(11, ACCEPTED)])
    );
    append(
        &tree,
        0,
        &page(10 * MS, &[(130 * MS, record(11, 7, 0))], None),
    );
    order.push(call(7, 6 * MS, 125 * MS, "read"));
    order.calls().goes_on(7, None, 131 * MS);
    let (events, losses) = end(order);
    assert_eq!((events[0].time, events[0].took), (10 * MS, 120 * MS));
    assert_eq!(losses.late, 1);
}

#[test]
fn what_follows_an_exit_waits_for_its_answer() {
    let tree = Tree::new("held");
    let mut order = a_call_and_vectors(&tree);
    // The call is KVM_RUN; the exit is kept back from 5 ms on.
    let held = [Held { tid: 7, since: MS }];
    order.calls().goes_on(7, None, 5 * MS);
    assert_eq!(
        look(&mut order, 60 * MS, false, &held),
        [],
        "the tracer is late"
    );
    assert_eq!(look(&mut order, 500 * MS, false, &held), []);
    let vectors = shown(&[(3, ACCEPTED), (5, ACCEPTED)]);
    let exit = Event {
        body: Body::Exit(Left {
            result: Some(0),
            immediate: false,
            exit: None,
            meaning: Meaning::default(),
        }),
        ..call(7, 5 * MS, 4 * MS, "")
    };
    order.push(exit);
    assert_eq!(
        look(&mut order, 501 * MS, true, &[]),
        shown(&[(3, ACCEPTED), (4, "exit"), (5, ACCEPTED)])
    );
    // A thread that handles an exit for long is not waited for.
    let tree = Tree::new("slow");
    let mut order = a_call_and_vectors(&tree);
    order.calls().goes_on(7, None, 5 * MS);
    assert_eq!(look(&mut order, 1005 * MS, true, &held), []);
    assert_eq!(look(&mut order, 1006 * MS, false, &held), []);
    assert_eq!(look(&mut order, 1006 * MS, true, &held), vectors);
}

#[test]
fn no_more_than_a_limit_is_held_in_memory() {
    let tree = Tree::new("limit");
    let mut order = a_call_and_vectors(&tree);
    let mut time = 6 * MS;
    let (pages, each) = (MOST / 100 + 10, 100);
    for _ in 0..pages {
        let start = time;
        let vectors = (0..each).map(|_| {
            time += 10;
            (time, record(13, 0, 36))
        });
        let vectors: Vec<_> = vectors.collect();
        append(&tree, 1, &page(start, &vectors, None));
    }
    // The tracer does not come to see the end of the call.
    let mut events = 0;
    let mut now = 10_000 * MS;
    while order.is_due(now) {
        events += look(&mut order, now, true, &[]).len();
        now += 1;
    }
    assert_eq!(events, pages * each + 2 - MOST);
    order.push(call(7, MS, 4 * MS, "write"));
    let (rest, losses) = end(order);
    assert_eq!(rest.len(), MOST + 1);
    assert_eq!(
        losses,
        Losses {
            lost: 2 * 5,
            late: 1
        }
    );
}

#[test]
fn an_instance_of_a_large_host_takes_no_more_memory() {
    let tree = Tree::new("large");
    let of = format!("instances/{}", Owner::own().name());
    for cpu in 0..256 {
        tree.write(&format!("{of}/per_cpu/cpu{cpu}/trace_pipe_raw"), b"");
    }
    drop(source(&tree, [Vec::new(), Vec::new()]));
    let size = fs::read_to_string(tree.0.join(of).join("buffer_size_kb"));
    assert_eq!(size.unwrap(), "512", "128 MiB in all");
}

#[test]
fn no_wanted_event_is_twice() {
    let names: Vec<_> = WANTED.iter().map(|w: &Wanted| (w.system, w.name)).collect();
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
}
