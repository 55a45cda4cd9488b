//! A timeline as SVG.

use crate::output::duration::duration;
use crate::output::html::escape::{Escaped, short};
use crate::output::html::timeline::{BINS, Bin, CATEGORIES, Timeline, Track};

/// Sizes in the units of the drawing: a bin, a track, the names, and the axis.
const BIN: usize = 3;
const TRACK: usize = 30;
const BAR: usize = 22;
const NAMES: usize = 190;
const AXIS: usize = 26;
/// Room for the last mark of the axis.
const LABEL: usize = 80;
/// Characters of a track's name.
const NAME: usize = 26;
/// Marks of the axis.
const MARKS: u64 = 5;

/// Draws a timeline below a heading. `origin` is the time that is zero.
pub fn chart(page: &mut String, title: &str, timeline: &Timeline, origin: u64) {
    let tracks = timeline.tracks();
    let (width, height) = (NAMES + BINS * BIN + LABEL, AXIS + tracks.len() * TRACK);
    let start = timeline.start.unwrap_or(origin);
    let length = timeline.end.saturating_sub(start);
    let bin = duration(timeline.width());
    *page += &format!(
        "<h3>{}</h3><p>{} in all. A column is {bin} wide; its height is the part of that time, \
         its colour what most of it is.</p><div class=scroll><svg class=chart role=img \
         viewBox=\"0 0 {width} {height}\" width={width} height={height} aria-label=\"{}\">",
        Escaped(title),
        duration(length),
        Escaped(title),
    );
    axis(page, timeline, origin, height);
    for (i, track) in tracks.iter().enumerate() {
        draw(page, track, i, timeline, origin);
    }
    page.push_str("</svg></div>");
}

fn axis(page: &mut String, timeline: &Timeline, origin: u64, height: usize) {
    let start = timeline.start.unwrap_or(origin);
    let length = timeline.end.saturating_sub(start);
    for mark in 0..=MARKS {
        let time = length / MARKS * mark;
        let x = NAMES + (time / timeline.width()) as usize * BIN;
        let seconds = seconds(start.saturating_add(time), origin, timeline);
        *page += &format!(
            "<path class=axis d=\"M{x} 16V{height}\"/><text class=mark x={x} y=12>{seconds} \
             s</text>"
        );
    }
}

/// Seconds, as exactly as the bins are wide.
fn seconds(time: u64, origin: u64, timeline: &Timeline) -> String {
    let seconds = time.saturating_sub(origin) as f64 / 1e9;
    let digits = 9usize.saturating_sub(timeline.width().ilog10() as usize);
    format!("{seconds:.digits$}")
}

fn draw(page: &mut String, track: &Track, row: usize, timeline: &Timeline, origin: u64) {
    let bottom = AXIS + (row + 1) * TRACK - 4;
    *page += &format!(
        "<text x=0 y={}>{}<title>{}: {} slices</title></text><path class=base d=\"M{NAMES} \
         {bottom}h{}\"/>",
        bottom - 6,
        Escaped(&short(&track.name, NAME)),
        Escaped(&track.name),
        track.slices,
        BINS * BIN,
    );
    let start = timeline.start.unwrap_or(origin);
    for (at, bin) in track.bins.iter().enumerate() {
        if bin.count == 0 && bin.busy == 0 {
            continue;
        }
        let tall = height_of(bin, timeline.width());
        let (x, y) = (NAMES + at * BIN, bottom - tall);
        let (_, class, words) = bin.category();
        let time = start.saturating_add(at as u64 * timeline.width());
        *page += &format!(
            "<path class={class} d=\"M{x} {y}h{BIN}v{tall}h-{BIN}z\"><title>{} s: {} begin, {}; \
             most is {words}</title></path>",
            seconds(time, origin, timeline),
            bin.count,
            duration(bin.busy),
        );
    }
}

/// The height of a bar: at least a mark.
fn height_of(bin: &Bin, width: u64) -> usize {
    let part = bin.busy.min(width) as f64 / width as f64;
    ((part * BAR as f64) as usize).clamp(3, BAR)
}

/// What the colours mean.
pub fn legend(page: &mut String) {
    page.push_str("<p class=legend>");
    for (_, class, words) in CATEGORIES {
        *page += &format!(
            "<span><svg width=12 height=12 aria-hidden=true><path class={class} d=\"M0 \
             0h12v12H0z\"/></svg> {words}</span> "
        );
    }
    page.push_str("</p>");
}
