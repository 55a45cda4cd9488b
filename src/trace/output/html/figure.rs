//! The address maps of a VM as SVG: guest memory, the VMM's memory, and I/O addresses side by side.

use crate::output::html::areas::{Area, Side, SpaceId};
use crate::output::html::boxes::{self, Block, Look};
use crate::output::html::escape::{Escaped, short};
use crate::output::html::learn::{Known, Machine};

/// Sizes in the units of the drawing: a column and the room between, the title, and boxes.
const COLUMN: u64 = 330;
const BETWEEN: u64 = 90;
const TITLE: u64 = 24;
const LEAST: u64 = 18;
const MOST: u64 = 96;
const TWO_LINES: u64 = 32;
/// The columns of I/O addresses.
const IO_COLUMNS: usize = 3;
/// Characters of a line in a box.
const LINE: usize = 50;

/// A column, with the vertical position and the height of each box.
struct Column {
    title: String,
    x: u64,
    boxes: Vec<(Block, u64, u64)>,
}

impl Column {
    fn new(title: &str, number: usize, blocks: Vec<Block>) -> Self {
        let mut y = TITLE;
        let boxes = boxes::with_holes(blocks).into_iter().map(|block| {
            let height = height(&block);
            let at = y;
            y += height + 2;
            (block, at, height)
        });
        Self {
            title: title.into(),
            x: number as u64 * (COLUMN + BETWEEN),
            boxes: boxes.collect(),
        }
    }

    fn height(&self) -> u64 {
        self.boxes.last().map_or(TITLE, |(_, y, height)| y + height)
    }

    /// The vertical position of an address.
    fn y(&self, address: u64) -> Option<u64> {
        let at = self
            .boxes
            .iter()
            .find(|(b, ..)| (b.first..=b.last).contains(&address) && b.look != Look::Hole);
        at.map(|(block, y, height)| {
            let part = (address - block.first) as f64 / block.size() as f64;
            y + (part * *height as f64) as u64
        })
    }
}

fn height(block: &Block) -> u64 {
    if block.look == Look::Hole {
        return LEAST;
    }
    let pages = (block.size() / 4096).max(1);
    (LEAST + 4 * u64::from(pages.ilog2())).min(MOST)
}

/// The time of which the maps are: when a guest has run last, or the last map.
pub fn moment(known: &Known) -> u64 {
    let last = || known.areas.all().iter().map(|area| area.since).max();
    known.last_run.or_else(last).unwrap_or(0)
}

/// Draws the maps of a VM, and tells how many I/O address spaces are left out.
pub fn figure(page: &mut String, known: &Known, machine: &Machine) -> usize {
    let (columns, left_out) = columns(known, machine);
    let height = columns.iter().map(Column::height).max().unwrap_or(0) + 4;
    let width = columns.len() as u64 * (COLUMN + BETWEEN) - BETWEEN;
    *page += &format!(
        "<div class=scroll><svg class=map role=img viewBox=\"0 0 {width} {height}\" \
         width={width} height={height} aria-label=\"Address maps; the tables below have the \
         same\">",
    );
    ribbons(page, &columns);
    for column in &columns {
        let (x, title) = (column.x, Escaped(&column.title));
        *page += &format!("<text class=title x={x} y=14>{title}</text>");
        for (block, y, height) in &column.boxes {
            draw(page, x, block, *y, *height);
        }
    }
    page.push_str("</svg></div>");
    left_out
}

fn columns(known: &Known, machine: &Machine) -> (Vec<Column>, usize) {
    let then = known.areas.then(moment(known));
    let guest = SpaceId {
        side: Side::Guest,
        number: u64::from(machine.file) << 32,
    };
    let own: Vec<&Area> = then.into_iter().filter(|a| a.pid == machine.pid).collect();
    let of = |space: SpaceId| own.iter().copied().filter(move |area| area.space == space);
    let trapped = known.answers.trapped(machine.file);
    let kernel = known.answers.kernel(machine.file);
    let blocks = boxes::guest(of(guest), &trapped, kernel);
    let mut columns = vec![Column::new(
        &format!("Guest memory ({})", machine.name),
        0,
        blocks,
    )];
    let is_shown = |area: &&Area| area.space == guest || area.space.side != Side::Guest;
    let host = boxes::host(own.iter().copied().filter(is_shown));
    let title = format!("Memory of the VMM (process {})", machine.pid);
    columns.push(Column::new(&title, 1, host));
    let mut spaces: Vec<SpaceId> = own.iter().map(|area| area.space).collect();
    spaces.retain(|space| space.side == Side::Io);
    spaces.dedup();
    let left_out = spaces.len().saturating_sub(IO_COLUMNS);
    for (i, space) in spaces.into_iter().take(IO_COLUMNS).enumerate() {
        let blocks = of(space).map(Block::of).collect();
        let name = known.names.get(&space).map_or("I/O addresses", |name| name);
        columns.push(Column::new(name, i + 2, blocks));
    }
    (columns, left_out)
}

/// Bands from each box of guest memory to the VMM's, and from there to I/O addresses.
fn ribbons(page: &mut String, columns: &[Column]) {
    let [guest, host, io @ ..] = columns else {
        return;
    };
    let sides = std::iter::once((guest, guest.x + COLUMN, host.x));
    let sides = sides.chain(io.iter().map(|io| (io, io.x, host.x + COLUMN)));
    for (column, from, to) in sides {
        for (block, y, height) in &column.boxes {
            let Some(at) = block.host else { continue };
            let last = at.saturating_add(block.size() - 1);
            let (Some(top), Some(bottom)) = (host.y(at), host.y(last)) else {
                continue;
            };
            let (class, down, bottom) = (class(block.look), y + height, bottom.max(top + 2));
            *page += &format!(
                "<path class=\"ribbon {class}\" d=\"M{from} {y}L{to} {top}V{bottom}L{from} \
                 {down}z\"/>"
            );
        }
    }
}

fn draw(page: &mut String, x: u64, block: &Block, y: u64, height: u64) {
    let range = format!("{:x}–{:x}", block.first, block.last);
    let size = size(block.size());
    let (first, second) = match height >= TWO_LINES {
        true => (block.what.clone(), format!("{range}, {size}")),
        false => (
            format!("{:x} {}, {size}", block.first, block.what),
            String::new(),
        ),
    };
    *page += &format!(
        "<g><title>{range}, {size}: {}</title><path class=\"box {}\" d=\"M{x} \
         {y}h{COLUMN}v{height}h-{COLUMN}z\"/><text x={} y={}>{}</text>",
        Escaped(&block.what),
        class(block.look),
        x + 6,
        y + 13,
        Escaped(&short(&first, LINE)),
    );
    if !second.is_empty() {
        let second = short(&second, LINE);
        *page += &format!(
            "<text class=range x={} y={}>{}</text>",
            x + 6,
            y + 27,
            Escaped(&second),
        );
    }
    page.push_str("</g>");
}

fn class(look: Look) -> &'static str {
    match look {
        Look::Memory => "b-memory",
        Look::Mapped => "b-mapped",
        Look::Trapped => "b-trapped",
        Look::Kernel => "b-kernel",
        Look::Hole => "b-hole",
        Look::Several => "b-several",
    }
}

/// What the colours mean.
pub fn legend(page: &mut String) {
    page.push_str("<p class=legend>");
    for (look, words) in [
        (Look::Memory, "RAM"),
        (Look::Mapped, "a file's mapping, such as a BAR: no exit"),
        (Look::Trapped, "trapped: an access ends KVM_RUN"),
        (Look::Kernel, "KVM answers"),
        (Look::Hole, "nothing"),
    ] {
        let class = class(look);
        *page += &format!(
            "<span><svg width=12 height=12 aria-hidden=true><path class=\"box {class}\" d=\"M0 \
             0h12v12H0z\"/></svg> {words}</span> "
        );
    }
    page.push_str("</p>");
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    let whole = 1u64 << (10 * unit);
    match bytes % whole {
        0 => format!("{} {}", bytes / whole, UNITS[unit]),
        _ => format!("{:.1} {}", bytes as f64 / whole as f64, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (4, "4 bytes"),
            (4096, "4 KiB"),
            (0xa_0000, "640 KiB"),
            (3 << 30, "3 GiB"),
            (1536 << 20, "1.5 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
