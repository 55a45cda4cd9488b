//! The whole page, from made-up events.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use crate::decode::value::{Field, Kind, Value};
use crate::event::{Body, Call, Event, Left, Names};
use crate::files::open_file::{FileKind, FileRef, OpenFile};
use crate::guest::access::{Access, Register, Space};
use crate::guest::run_page::Exit;
use crate::guest::vm::Meaning;
use crate::output::emitter::Output;
use crate::output::html::output::Html;
use crate::output::html::page::MOST;
use crate::summary::Summary;

const EVIL: &str = "</code><script>alert(1)</script>\"'><img src=x onerror=alert(1)>";

#[derive(Clone, Default)]
struct Kept(Rc<RefCell<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a page of these events.
fn page(command: &str, events: impl Iterator<Item = Event>) -> String {
    let kept = Kept::default();
    let mut html = Html::new(Box::new(kept.clone()), command.into(), false);
    let mut summary = Summary::default();
    for event in events {
        summary.count(&event);
        html.event(&event);
    }
    html.end(&summary);
    html.flush();
    let page = kept.0.borrow().clone();
    String::from_utf8(page).unwrap()
}

fn file(id: u32, kind: Kind, name: &str) -> FileRef {
    Rc::new(OpenFile {
        id,
        kind: FileKind::Calls(kind),
        name: name.into(),
        vm: matches!(kind, Kind::Vm | Kind::Vcpu).then_some(1),
    })
}

fn event(time: u64, file: &FileRef, below: bool, body: Body) -> Event {
    Event {
        time,
        took: 500,
        pid: 10,
        tid: 11,
        below,
        file: Some(file.clone()),
        body,
    }
}

fn call(name: &'static str, ins: &[(&'static str, u64)], result: i64, note: Option<&str>) -> Body {
    let field = |(name, value): &(&'static str, u64)| Field {
        name: (*name).into(),
        value: Value::Hex(*value, 8),
    };
    Body::Call(Call {
        name: name.into(),
        known: true,
        ins: ins.iter().map(field).collect(),
        outs: Vec::new(),
        result,
        makes: None,
        note: note.map(String::from),
        names: Names::default(),
        why: None,
    })
}

fn slot(number: u64, guest: u64, size: u64, host: u64) -> Body {
    let fields = [
        ("slot", number),
        ("flags", 0),
        ("guest_phys_addr", guest),
        ("memory_size", size),
        ("userspace_addr", host),
    ];
    call("KVM_SET_USER_MEMORY_REGION", &fields, 0, None)
}

fn exit(space: Space, address: u64, function: &str) -> Body {
    let register = Register {
        space,
        address,
        write: true,
    };
    let access = Access {
        register,
        width: 4,
        count: 1,
        data: vec![1, 2, 3, 4],
    };
    Body::Exit(Left {
        result: Some(0),
        immediate: false,
        exit: Some(Exit::Access(access, None)),
        meaning: Meaning {
            function: Some(function.into()),
            register: Some("BAR0".into()),
            ..Meaning::default()
        },
    })
}

/// A VM with RAM, a device's BAR, DMA maps of both interfaces, an exit that the device answers, and
/// the end of all.
fn machine(function: &str, device: &str) -> Vec<Event> {
    const RAM: u64 = 0x7f00_0000_0000;
    const BAR: u64 = 0x7f80_0000_0000;
    let (vm, vcpu) = (file(1, Kind::Vm, "vm"), file(2, Kind::Vcpu, "vcpu 0"));
    let (device, container) = (
        file(3, Kind::Device, device),
        file(4, Kind::Container, "container"),
    );
    let iommufd = file(5, Kind::Iommufd, "iommufd");
    let dma = [("vaddr", RAM), ("iova", 0), ("size", 0x4000_0000)];
    let ioas = [
        ("ioas_id", 2),
        ("user_va", BAR),
        ("length", 0x4000),
        ("iova", 0xfe00_0000),
    ];
    let length = [("addr", 0), ("length", 0x4000)];
    let config = [("offset", 4)];
    vec![
        event(1_000, &vm, false, call("KVM_CREATE_IRQCHIP", &[], 0, None)),
        event(2_000, &vm, false, slot(0, 0, 0x4000_0000, RAM)),
        event(
            3_000,
            &container,
            false,
            call("VFIO_IOMMU_MAP_DMA", &dma, 0, None),
        ),
        event(
            4_000,
            &device,
            false,
            call("mmap", &length, BAR as i64, Some("BAR0+0x0")),
        ),
        event(5_000, &vm, false, slot(3, 0xfe00_0000, 0x4000, BAR)),
        event(
            6_000,
            &iommufd,
            false,
            call("IOMMU_IOAS_MAP", &ioas, 0, None),
        ),
        event(7_000, &vcpu, false, Body::Entered),
        event(
            9_000,
            &vcpu,
            false,
            exit(Space::Memory, 0xfe00_4010, function),
        ),
        event(9_100, &device, true, call("pwrite64", &config, 4, None)),
        event(9_900, &vcpu, false, Body::Entered),
        event(12_000, &vcpu, false, exit(Space::Port, 0xcfc, function)),
        event(13_000, &vm, false, slot(3, 0xfe00_0000, 0, BAR)),
        event(13_500, &vm, false, slot(0, 0, 0, RAM)),
        event(
            14_000,
            &container,
            false,
            call("VFIO_IOMMU_UNMAP_DMA", &dma, 0, None),
        ),
    ]
}

#[test]
fn maps_stand_side_by_side_as_they_were_when_the_guest_ran() {
    let page = page("vmm", machine("00:03.0", "device 0000:01:00.0").into_iter());
    let maps = page.split("<section id=maps>").nth(1).unwrap();
    let figure = maps.split("</svg></div>").next().unwrap();
    let figure = figure.split("class=map").nth(1).unwrap();
    for part in [
        "Guest memory (vm)",
        "0–3fffffff, 1 GiB: slot 0: RAM<",
        "fe000000–fe003fff, 16 KiB: slot 3: device 0000:01:00.0 BAR0+0x0<",
        "fe004010–fe004013, 4 bytes: 00:03.0: 1 exits<",
        "fec00000–fec000ff, 256 bytes: KVM: IO-APIC<",
        "Memory of the VMM (process 10)",
        "7f0000000000–7f003fffffff, 1 GiB: guest RAM<",
        "7f8000000000–7f8000003fff, 16 KiB: device 0000:01:00.0 BAR0+0x0<",
        "I/O addresses of container<",
        "I/O addresses of iommufd, ioas 2<",
    ] {
        assert!(figure.contains(part), "{part:?} is not in {figure}");
    }
    // Guest to VMM, and I/O addresses to VMM: RAM and BAR each.
    assert_eq!(figure.matches("class=\"ribbon").count(), 4);
    let answers = page.split("<section id=answers>").nth(1).unwrap();
    let by_device = "the VMM; it calls device 0000:01:00.0 (1 times)";
    assert!(answers.contains(by_device), "{answers}");
    assert!(answers.contains("<code>port cfc–cff</code>"), "{answers}");
    let chart = page.split("<section id=timeline>").nth(1).unwrap();
    for track in [">vcpu 0<", ">thread 11<", ">device 0000:01:00.0<"] {
        assert!(chart.contains(track), "{track}");
    }
}

#[test]
fn nothing_that_is_traced_becomes_markup() {
    let mut events = machine(EVIL, &format!("device {EVIL}"));
    let vm = file(1, Kind::Vm, EVIL);
    events.push(event(
        20_000,
        &vm,
        false,
        Body::Process(format!("executes {EVIL}")),
    ));
    let odd = Call {
        name: EVIL.into(),
        known: false,
        ins: vec![Field {
            name: EVIL.into(),
            value: Value::Text(EVIL.into()),
        }],
        outs: Vec::new(),
        result: 3,
        makes: Some(EVIL.into()),
        note: Some(EVIL.into()),
        names: Names::default(),
        why: None,
    };
    events.push(event(21_000, &vm, true, Body::Call(odd)));
    let page = page(EVIL, events.into_iter());
    assert!(page.contains("&lt;script&gt;"));
    for markup in ["<script", "<img", "</code><s", "onerror=alert(1)>"] {
        assert!(!page.contains(markup), "{markup}");
    }
    is_well_formed(&page);
    // Nothing is fetched: the only address is the empty icon.
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("url("));
    let hrefs = page.split("href=\"").skip(1);
    assert!(
        hrefs
            .into_iter()
            .all(|h| h.starts_with('#') || h.starts_with("data:,\""))
    );
}

/// Each `<` begins a tag of those that the page has.
fn is_well_formed(page: &str) {
    const TAGS: [&str; 28] = [
        "!doctype", "html", "meta", "link", "title", "style", "header", "h1", "h2", "h3", "p",
        "code", "nav", "a", "main", "section", "div", "svg", "path", "text", "g", "span", "table",
        "thead", "tbody", "tr", "th", "td",
    ];
    for rest in page.split('<').skip(1) {
        let name: String = rest
            .trim_start_matches('/')
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '!')
            .collect();
        let known = TAGS.contains(&name.as_str());
        assert!(known, "<{}", rest.chars().take(60).collect::<String>());
    }
}

#[test]
fn a_million_events_fit() {
    let vcpu = file(2, Kind::Vcpu, "vcpu 0");
    let start = machine("00:03.0", "device 0000:01:00.0");
    let devices: Vec<FileRef> = (0..200)
        .map(|i| {
            file(
                100 + i,
                Kind::Device,
                &format!("device {i} {}", "&".repeat(300)),
            )
        })
        .collect();
    let many = (0..1_000_000u64).map(|i| {
        let time = 20_000 + i * 7_919;
        // Many are alike, as in a loop; of the others, each has a register and a long name.
        let i = if i % 32 < 2 { i } else { i % 6 };
        let function = format!("{i} {}", "<".repeat(300));
        let mut event = match i % 3 {
            0 => event(time, &vcpu, false, exit(Space::Memory, i * 8192, &function)),
            1 => {
                let (device, at) = (&devices[i as usize % 200], i << 12);
                let length = [("length", 4096)];
                event(
                    time,
                    device,
                    true,
                    call("mmap", &length, at as i64, Some(&function)),
                )
            }
            _ => event(time, &vcpu, false, Body::Entered),
        };
        event.tid = 11 + (i / 3 % 100) as i32;
        event
    });
    let page = page("vmm", start.into_iter().chain(many));
    assert!(page.len() < MOST, "{} bytes", page.len());
    assert!(page.contains("events are left out"));
    assert!(page.contains("too many areas and addresses"));
    assert!(page.ends_with("</main></html>\n"));
}

#[test]
fn an_empty_trace_is_a_page() {
    let page = page("true", std::iter::empty());
    assert!(page.contains("No VM had memory."));
    is_well_formed(&page);
}
