//! The Perfetto file of a trace: its slices nest, its tracks have names, its flows have both ends.

use std::collections::{BTreeMap, BTreeSet};

use lab::expect::expect;
use lab::{Error, Result};
use serde_json::Value;

use super::checks::Trace;

/// Process and track.
type Track = (i64, i64);

/// Start and end in nanoseconds, and the name.
type Slice = (i64, i64, String);

/// A reader of the file in Chrome's JSON format.
pub fn check(events: &Value, trace: &Trace) -> Result<()> {
    let events = events
        .as_array()
        .ok_or_else(|| Error::failed("the Perfetto file is no list"))?;
    let mut tracks: BTreeMap<Track, Vec<Slice>> = BTreeMap::new();
    let mut names: BTreeMap<Track, &str> = BTreeMap::new();
    for event in events {
        let track = track(event)?;
        match event["ph"].as_str() {
            Some("X") => {
                let start = nanoseconds(&event["ts"])?;
                let end = start + nanoseconds(&event["dur"])?;
                let name = event["name"].as_str().unwrap_or_default().to_string();
                tracks.entry(track).or_default().push((start, end, name));
            }
            Some("M") if event["name"] == "thread_name" => {
                let name = event["args"]["name"].as_str().unwrap_or_default();
                names.insert(track, name);
            }
            Some("M" | "i" | "s" | "t" | "f") => {}
            other => {
                return Err(Error::failed(format!(
                    "an event of phase {other:?}: {event}"
                )));
            }
        }
    }
    for (track, slices) in &mut tracks {
        expect(names.contains_key(track), || {
            format!("track {track:?} has no name")
        })?;
        nests(slices)?;
    }
    let named = |name: &str| {
        let mut found = names.iter().filter(|(_, of)| **of == name);
        let slices = found.next().and_then(|(track, _)| tracks.get(track));
        slices.ok_or_else(|| Error::failed(format!("there is no track {name}: {names:?}")))
    };
    named("device 0000:00:05.0")?;
    let exits = trace
        .lines
        .iter()
        .filter(|line| line["type"] == "exit")
        .count();
    let slices = named("vcpu 0")?.len();
    // Calls between two exits nest inside of their slices.
    expect(slices >= exits, || {
        format!("{slices} slices for {exits} exits")
    })?;
    flows(events, &tracks)
}

fn track(event: &Value) -> Result<Track> {
    let numbers = event["pid"].as_i64().zip(event["tid"].as_i64());
    numbers.ok_or_else(|| Error::failed(format!("an event has no track: {event}")))
}

fn nanoseconds(micros: &Value) -> Result<i64> {
    let micros = micros.as_f64().filter(|micros| *micros >= 0.0);
    let micros = micros.ok_or_else(|| Error::failed("an event has no time"))?;
    Ok((micros * 1e3).round() as i64)
}

/// Two slices of a track are apart, or one is inside of the other.
fn nests(slices: &mut [Slice]) -> Result<()> {
    slices.sort_by_key(|(start, end, _)| (*start, -end));
    let mut open: Vec<&Slice> = Vec::new();
    for slice in slices.iter() {
        while open.last().is_some_and(|outer| outer.1 <= slice.0) {
            open.pop();
        }
        if let Some(outer) = open.last() {
            expect(slice.1 <= outer.1, || {
                format!("{slice:?} overlaps {outer:?}")
            })?;
        }
        open.push(slice);
    }
    Ok(())
}

/// Each flow begins once and ends once, in that order, and each of its points is in a slice. Some
/// flow leads from an exit of the guest to both calls of an interrupt.
fn flows(events: &[Value], tracks: &BTreeMap<Track, Vec<Slice>>) -> Result<()> {
    let mut flows: BTreeMap<i64, Vec<(i64, &str, &str)>> = BTreeMap::new();
    for event in events {
        let phase = event["ph"].as_str().unwrap_or_default();
        if !["s", "t", "f"].contains(&phase) {
            continue;
        }
        let (at, id) = (nanoseconds(&event["ts"])?, event["id"].as_i64());
        let slices = tracks.get(&track(event)?).into_iter().flatten();
        let open = slices.filter(|(start, end, _)| *start <= at && at <= *end);
        let inner = open.max_by_key(|(start, ..)| *start);
        let name = inner.map(|(_, _, name)| name.as_str());
        let name = name.ok_or_else(|| Error::failed(format!("a flow meets no slice: {event}")))?;
        let id = id.ok_or_else(|| Error::failed(format!("a flow has no id: {event}")))?;
        flows.entry(id).or_default().push((at, phase, name));
    }
    let mut whole = 0;
    for (id, mut points) in flows {
        points.sort_by_key(|point| point.0);
        let phases: Vec<_> = points.iter().map(|point| point.1).collect();
        let well = phases.first() == Some(&"s") && phases.last() == Some(&"f");
        let ends = phases.iter().filter(|phase| **phase != "t").count();
        expect(well && ends == 2, || format!("flow {id} is {phases:?}"))?;
        let names: BTreeSet<_> = points.iter().map(|point| point.2).collect();
        let calls = ["VFIO_DEVICE_SET_IRQS", "KVM_IRQFD"];
        let both = calls.iter().all(|call| names.contains(call));
        expect(both, || format!("flow {id} is of {names:?}"))?;
        whole += u32::from(names.iter().any(|name| name.contains("MSI-X[")));
    }
    expect(whole > 0, || {
        "no flow begins where the guest writes its MSI-X table".into()
    })
}
