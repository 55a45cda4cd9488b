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

/// An event; `None` if it is not understood.
pub fn event(event: &Value) -> Option<String> {
    let (seq, name) = (event["seq"].as_u64()?, event["event"].as_str()?);
    let more = match name {
        "degraded" => loss(event)?,
        "lost" => format!(
            "{} events, because this reader was too slow",
            event["count"]
        ),
        _ => event["reason"].as_str().unwrap_or_default().into(),
    };
    Some(format!("{seq} {name} {more}").trim_end().into())
}
