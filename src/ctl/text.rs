//! Answers for people.

use serde_json::Value;

/// `vm.info`; `None` if a field is missing that every version has.
pub fn info(info: &Value) -> Option<String> {
    let config = &info["config"];
    let state = info["state"].as_str()?.to_lowercase();
    let (boots, uptime) = (info["boots"].as_u64()?, info["uptime_us"].as_u64()?);
    let mut text = format!(
        "state    {state}, boot {boots}, {:.1} s since the start, process {}\n",
        uptime as f64 / 1e6,
        info["pid"]
    );
    if let Some(note) = info["note"].as_str() {
        text += &format!("         {note}\n");
    }
    let cpus = config["cpus"]["boot_vcpus"].as_u64()?;
    let memory = config["memory"]["size"].as_u64()?;
    let payload = &config["payload"];
    text += &format!(
        "guest    {cpus} vCPU{}, {} MiB\nkernel   {}\ncmdline  {}\n",
        if cpus == 1 { "" } else { "s" },
        memory >> 20,
        payload["kernel"].as_str()?,
        payload["cmdline"].as_str()?
    );
    if let Some(initrd) = payload["initramfs"].as_str() {
        text += &format!("initrd   {initrd}\n");
    }
    for (id, node) in info["device_tree"].as_object()? {
        text += &format!(
            "device   {id} is {} in the guest\n",
            node["pci_bdf"].as_str()?
        );
    }
    for loss in info["degraded"].as_array()? {
        text += &format!("loss     {}\n", self::loss(loss)?);
    }
    Some(text)
}

/// `vm.counters`: groups of those that are not zero.
pub fn counters(counters: &Value) -> Option<String> {
    let mut text = String::new();
    for (group, counts) in counters.as_object()? {
        let counts = counts.as_object()?.iter();
        let counts: Vec<_> = counts.filter(|(_, n)| n.as_u64() != Some(0)).collect();
        if !counts.is_empty() {
            text += &format!("{group}\n");
        }
        for (name, count) in counts {
            text += &format!("  {count:>15}  {name}\n");
        }
    }
    Some(text)
}

/// A loss of the guest.
fn loss(loss: &Value) -> Option<String> {
    let device = loss["device"].as_str();
    let device = device.map(|d| format!("{d}: ")).unwrap_or_default();
    let field = |name: &str| loss[name].as_str();
    Some(format!(
        "{device}{}: {} [{}]; hint: {}",
        field("what")?,
        field("why")?,
        field("code")?,
        field("hint")?
    ))
}

/// The device of an event: its id, and its address if that is another text.
fn device(event: &Value) -> Option<String> {
    let (id, host) = (event["id"].as_str()?, event["host"].as_str()?);
    Some(match id == host {
        true => host.into(),
        false => format!("{id} ({host})"),
    })
}

/// An event; `None` if it is not understood.
pub fn event(event: &Value) -> Option<String> {
    let (seq, name) = (event["seq"].as_u64()?, event["event"].as_str()?);
    let more = match name {
        "degraded" => loss(event)?,
        "lost" => format!(
            "{} events, because this reader was too slow",
            event["count"]
        ),
        "device-adding" => {
            let mib = |name: &str| Some(event[name].as_u64()? >> 20);
            let (mapped, size) = (mib("mapped")?, mib("size")?);
            format!("{}: {mapped} of {size} MiB are mapped", device(event)?)
        }
        "device-added" => format!("{} is {}", device(event)?, event["bdf"].as_str()?),
        "device-removed" => format!("{} by {}", device(event)?, event["by"].as_str()?),
        "device-failed" => format!("{}: {}", device(event)?, event["why"].as_str()?),
        _ => event["reason"].as_str().unwrap_or_default().into(),
    };
    Some(format!("{seq} {name} {more}").trim_end().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines() {
        for (json, says) in [
            (r#"{"seq":1,"event":"paused"}"#, "1 paused"),
            (
                r#"{"seq":2,"event":"device-adding","id":"gpu","host":"0000:01:00.0",
                "mapped":1073741824,"size":4294967296}"#,
                "2 device-adding gpu (0000:01:00.0): 1024 of 4096 MiB are mapped",
            ),
            (
                r#"{"seq":3,"event":"device-added","id":"0000:01:00.0","host":"0000:01:00.0",
                "bdf":"0000:02:00.0"}"#,
                "3 device-added 0000:01:00.0 is 0000:02:00.0",
            ),
            (
                r#"{"seq":4,"event":"device-removed","id":"gpu","host":"0000:01:00.0",
                "by":"request"}"#,
                "4 device-removed gpu (0000:01:00.0) by request",
            ),
            (
                r#"{"seq":5,"event":"device-failed","id":"gpu","host":"0000:01:00.0",
                "what":"remove","why":"late"}"#,
                "5 device-failed gpu (0000:01:00.0): late",
            ),
        ] {
            let event = serde_json::from_str(json).unwrap();
            assert_eq!(self::event(&event).as_deref(), Some(says));
        }
        let unknown = serde_json::json!({"seq": 6, "event": "device-added"});
        assert_eq!(event(&unknown), None);
    }
}
