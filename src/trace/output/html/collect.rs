//! Collects what a page shows.

use std::collections::HashMap;

use crate::decode::value::Kind;
use crate::event::{Body, Event, Left};
use crate::files::open_file::FileKind;
use crate::guest::access::Space;
use crate::output::html::learn::Known;
use crate::output::html::story::Story;
use crate::output::html::timeline::{Category, Of, Timeline};

/// The most threads that can be in an exit at a time.
const MOST: usize = 1 << 16;

/// All that a page shows.
#[derive(Debug, Default)]
pub struct Collected {
    /// Address spaces, and who answers.
    pub known: Known,
    /// Until a guest runs.
    pub before: Timeline,
    /// Since then.
    pub running: Timeline,
    /// What happened, in order.
    pub story: Story,
    /// Events.
    pub events: u64,
    /// The exit that each thread handles: its vCPU, category and time.
    open: HashMap<i32, (u32, Category, u64)>,
    runs: bool,
}

impl Collected {
    /// Adds an event.
    pub fn add(&mut self, event: &Event) {
        self.known.learn(event);
        self.story.add(event);
        self.events += u64::from(!matches!(event.body, Body::Entered));
        match &event.body {
            Body::Call(_) => self.call(event),
            Body::Exit(left) => self.exit(event, left),
            Body::Entered => {
                self.runs = true;
                self.running.begin(event.time);
                self.close(event.tid, event.time);
            }
            Body::Kernel(happened) => {
                let (name, at) = (happened.name, (event.time, 0));
                let of = Of::Kernel(name);
                self.timeline()
                    .add(&of, || name.into(), Category::Kernel, at);
            }
            Body::Coalesced(..) | Body::Process(_) => {}
        }
    }

    fn timeline(&mut self) -> &mut Timeline {
        match self.runs {
            true => &mut self.running,
            false => &mut self.before,
        }
    }

    fn call(&mut self, event: &Event) {
        let kind = event.file.as_ref().map(|file| file.kind);
        let category = category(kind);
        let at = (event.time, event.took);
        let tid = event.tid;
        let name = || format!("thread {tid}");
        self.timeline().add(&Of::Thread(tid), name, category, at);
        if let Some(file) = &event.file
            && file.kind == FileKind::Calls(Kind::Device)
        {
            let name = || file.name.clone();
            self.timeline()
                .add(&Of::Device(file.id), name, category, at);
        }
    }

    fn exit(&mut self, event: &Event, left: &Left) {
        self.close(event.tid, event.time);
        let Some(vcpu) = &event.file else { return };
        let category = match left.access().map(|access| access.register.space) {
            Some(Space::Port) => Category::Port,
            Some(Space::Memory) => Category::Memory,
            None => Category::Exit,
        };
        let name = || vcpu.name.clone();
        let at = (event.time, 0);
        self.runs = true;
        self.running.add(&Of::Vcpu(vcpu.id), name, category, at);
        if self.open.len() < MOST {
            self.open.insert(event.tid, (vcpu.id, category, event.time));
        }
    }

    /// An exit is handled from the return of KVM_RUN to the next one.
    fn close(&mut self, tid: i32, end: u64) {
        if let Some((vcpu, category, since)) = self.open.remove(&tid) {
            let took = end.saturating_sub(since);
            self.running.cover(&Of::Vcpu(vcpu), category, (since, took));
        }
    }
}

fn category(kind: Option<FileKind>) -> Category {
    match kind {
        Some(FileKind::Calls(kind)) => match kind {
            Kind::Kvm | Kind::Vm | Kind::TdxVm | Kind::Vcpu | Kind::KvmDevice | Kind::KvmOther => {
                Category::Kvm
            }
            Kind::Container | Kind::Group | Kind::Device | Kind::Migration => Category::Vfio,
            Kind::Iommufd | Kind::IommufdOther => Category::Iommufd,
        },
        Some(FileKind::Eventfd) | None => Category::Other,
    }
}
