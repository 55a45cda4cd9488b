//! What the kernel itself does for the host with a device: consoles, keyboards, displays, sound,
//! clocks, watchdogs, TPMs. No process need have a node of these open.
//!
//! Each is a directory of a class that is below the device's directory
//! (Documentation/ABI/testing/sysfs-class-*, Documentation/input/event-codes.rst).

use std::io;
use std::path::Path;

use vmm::hostinfo::sysfs::Sysfs;

use crate::in_use::lookup::{Below, names, text};
use crate::in_use::usage::{InputKind, Use};
use crate::paths::HostPaths;

/// Codes of keys and buttons (include/uapi/linux/input-event-codes.h).
const KEY_SPACE: usize = 57;
const BTN_LEFT: usize = 0x110;
const BTN_TOUCH: usize = 0x14a;

pub(super) fn uses(sysfs: &Sysfs, paths: &HostPaths, below: &Below) -> io::Result<Vec<Use>> {
    let mut uses = consoles(sysfs, below)?;
    uses.extend(inputs(sysfs, below)?);
    uses.extend(screens(sysfs, below)?);
    uses.extend(sounds(sysfs, paths, below)?);
    uses.extend(clocks(sysfs, below)?);
    uses.extend(watchdogs(sysfs, below)?);
    for tpm in members(sysfs, below, "tpm")? {
        uses.push(Use::Tpm { name: tpm });
    }
    Ok(uses)
}

/// The names in a class whose devices are below the device.
fn members(sysfs: &Sysfs, below: &Below, class: &str) -> io::Result<Vec<String>> {
    let dir = sysfs.path("class").join(class);
    let mut members = names(&dir)?;
    members.retain(|name| below.has(&dir.join(name)));
    Ok(members)
}

/// An attribute of a member of a class; empty if there is none.
fn attribute(sysfs: &Sysfs, path: &str) -> String {
    let text = text(&sysfs.path("class").join(path)).unwrap_or_default();
    text.trim().to_owned()
}

/// The kernel's consoles: serial ports, and the text console on a frame buffer.
fn consoles(sysfs: &Sysfs, below: &Below) -> io::Result<Vec<Use>> {
    let active = attribute(sysfs, "tty/console/active");
    let active: Vec<_> = active.split_whitespace().collect();
    let mut uses: Vec<_> = members(sysfs, below, "tty")?
        .into_iter()
        .filter(|tty| active.contains(&tty.as_str()))
        .map(|tty| Use::Console { tty })
        .collect();
    // The frame buffer console has the virtual terminals if one of its drivers is bound
    // (Documentation/fb/fbcon.rst, `bind`).
    let class = sysfs.path("class/vtconsole");
    let on_frame_buffer = names(&class)?.iter().any(|name| {
        attribute(sysfs, &format!("vtconsole/{name}/bind")) == "1"
            && attribute(sysfs, &format!("vtconsole/{name}/name")).contains("frame buffer")
    });
    if on_frame_buffer {
        let frame_buffers = members(sysfs, below, "graphics")?.into_iter();
        let frame_buffers = frame_buffers.filter(|name| name.starts_with("fb"));
        uses.extend(frame_buffers.map(|tty| Use::Console { tty }));
    }
    Ok(uses)
}

/// Keyboards, mice and touch devices, also behind a USB or Bluetooth controller.
fn inputs(sysfs: &Sysfs, below: &Below) -> io::Result<Vec<Use>> {
    let mut uses = Vec::new();
    for input in members(sysfs, below, "input")? {
        if !input.starts_with("input") {
            continue;
        }
        let keys = attribute(sysfs, &format!("input/{input}/capabilities/key"));
        let kind = if has_bit(&keys, KEY_SPACE) {
            InputKind::Keyboard
        } else if has_bit(&keys, BTN_LEFT) {
            InputKind::Mouse
        } else if has_bit(&keys, BTN_TOUCH) {
            InputKind::Touch
        } else {
            // Buttons and the jacks of a sound card.
            continue;
        };
        let name = attribute(sysfs, &format!("input/{input}/name"));
        let name = if name.is_empty() { input } else { name };
        let new = Use::Input { kind, name };
        if !uses.contains(&new) {
            uses.push(new);
        }
    }
    Ok(uses)
}

/// Whether a bit is set in a bitmap of sysfs: words of 64 bits in hexadecimal, the highest first
/// (drivers/input/input.c, `input_print_bitmap`).
fn has_bit(bitmap: &str, bit: usize) -> bool {
    let word = bitmap.split_whitespace().rev().nth(bit / 64);
    let word = word.and_then(|word| u64::from_str_radix(word, 16).ok());
    word.is_some_and(|word| word & 1 << (bit % 64) != 0)
}

/// Connectors with a screen on which the driver shows a picture
/// (Documentation/ABI/testing/sysfs-class-drm: status, enabled).
fn screens(sysfs: &Sysfs, below: &Below) -> io::Result<Vec<Use>> {
    let connectors = members(sysfs, below, "drm")?.into_iter();
    let lit = connectors.filter(|name| {
        attribute(sysfs, &format!("drm/{name}/status")) == "connected"
            && attribute(sysfs, &format!("drm/{name}/enabled")) == "enabled"
    });
    Ok(lit.map(|connector| Use::Screen { connector }).collect())
}

/// Streams that are open (Documentation/sound/designs/procfile.rst: `pcm*/sub*/status`).
fn sounds(sysfs: &Sysfs, paths: &HostPaths, below: &Below) -> io::Result<Vec<Use>> {
    let mut uses = Vec::new();
    for card in members(sysfs, below, "sound")? {
        if !card.starts_with("card") {
            continue;
        }
        let dir = paths.proc.join("asound").join(&card);
        for pcm in names(&dir)?.iter().filter(|name| name.starts_with("pcm")) {
            for sub in names(&dir.join(pcm))?
                .iter()
                .filter(|name| name.starts_with("sub"))
            {
                uses.extend(stream(&dir.join(pcm).join(sub), &card, pcm));
            }
        }
    }
    Ok(uses)
}

fn stream(dir: &Path, card: &str, pcm: &str) -> Option<Use> {
    let status = text(&dir.join("status")).unwrap_or_default();
    let mut lines = status.lines();
    let state = lines.find_map(|line| line.strip_prefix("state:"))?;
    let owner = status
        .lines()
        .find_map(|line| line.strip_prefix("owner_pid")?.trim().strip_prefix(':'))
        .and_then(|pid| pid.trim().parse().ok());
    Some(Use::Sound {
        stream: format!("{card}/{pcm}"),
        state: state.trim().to_lowercase(),
        process: owner,
    })
}

/// Clocks from which the kernel has set its time (Documentation/ABI/testing/sysfs-class-rtc).
fn clocks(sysfs: &Sysfs, below: &Below) -> io::Result<Vec<Use>> {
    let clocks = members(sysfs, below, "rtc")?.into_iter();
    let used = clocks.filter(|name| attribute(sysfs, &format!("rtc/{name}/hctosys")) == "1");
    Ok(used.map(|name| Use::Clock { name }).collect())
}

/// Watchdogs that run (Documentation/ABI/testing/sysfs-class-watchdog: state).
fn watchdogs(sysfs: &Sysfs, below: &Below) -> io::Result<Vec<Use>> {
    let watchdogs = members(sysfs, below, "watchdog")?.into_iter();
    let active =
        watchdogs.filter(|name| attribute(sysfs, &format!("watchdog/{name}/state")) == "active");
    Ok(active.map(|name| Use::Watchdog { name }).collect())
}
