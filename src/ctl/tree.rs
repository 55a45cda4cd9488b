//! `vm.pci` for people: a line for each function, each BAR, each vector in use and each DMA map.

use serde_json::Value;

/// The text; `None` if a field is missing that every version has.
pub fn tree(tree: &Value) -> Option<String> {
    let mut text = String::new();
    for function in tree["functions"].as_array()? {
        text += &self::function(function)?;
    }
    for map in tree["dma_maps"].as_array()? {
        let (size, mapped) = (map["size"].as_u64()?, map["mapped"].as_u64()?);
        let part = match size == mapped {
            true => String::new(),
            false => format!(", {mapped:#x} of it mapped so far"),
        };
        text += &format!(
            "dma {} {} size {size:#x}{part}\n",
            map["kind"].as_str()?,
            map["iova"].as_str()?
        );
    }
    Some(text)
}

/// The words whose flags are set.
fn words(of: &Value, flags: &[(&str, &str)]) -> String {
    let set = flags.iter().filter(|(key, _)| of[*key] == true);
    let words: Vec<_> = set.map(|(_, word)| *word).collect();
    match words.is_empty() {
        true => "-".into(),
        false => words.join(" "),
    }
}

fn function(function: &Value) -> Option<String> {
    let id = |key: &str| Some(function[key].as_str()?.trim_start_matches("0x").to_owned());
    let command = &function["command"];
    let enabled = words(
        command,
        &[
            ("io", "io"),
            ("memory", "memory"),
            ("bus_master", "bus-master"),
        ],
    );
    let mut text = format!(
        "{} {}:{} class {} {}  command {} ({enabled})\n",
        function["bdf"].as_str()?,
        id("vendor_id")?,
        id("device_id")?,
        id("class")?,
        function["host"].as_str().unwrap_or("emulated"),
        command["value"].as_str()?,
    );
    let bridge = &function["bridge"];
    if bridge.is_object() {
        text += &self::bridge(bridge)?;
    }
    let device = &function["device"];
    if !device.is_object() {
        return Some(text);
    }
    if device["reachable"] != true {
        text += "  the guest does not reach the device\n";
    }
    if device["in_d0"] != true {
        text += "  the device is not in D0\n";
    }
    for bar in device["bars"].as_array()? {
        text += &self::bar(bar)?;
    }
    Some(text + &interrupts(&device["interrupts"])?)
}

fn bridge(bridge: &Value) -> Option<String> {
    let window = |key: &str| match bridge[key]["start"].as_str() {
        None => "-".into(),
        Some(start) => format!("{start} size {}", hex(&bridge[key]["size"])),
    };
    Some(format!(
        "  bus {} to {}; memory {}; prefetchable {}; io {}\n",
        bridge["secondary"].as_u64()?,
        bridge["subordinate"].as_u64()?,
        window("memory"),
        window("prefetchable"),
        window("io")
    ))
}

fn hex(number: &Value) -> String {
    number.as_u64().map_or("-".into(), |n| format!("{n:#x}"))
}

fn bar(bar: &Value) -> Option<String> {
    let state = match bar["mapped_at"].as_str() {
        Some(at) => format!("at {at}"),
        None => format!("off (register {})", bar["address"].as_str()?),
    };
    let mut text = format!(
        "  BAR {} {} size {} {state}\n",
        bar["bar"].as_str()?,
        bar["kind"].as_str()?,
        hex(&bar["size"])
    );
    for kind in ["direct", "trapped"] {
        for part in bar[kind].as_array()? {
            let peers = match part["peers"] == true {
                true => ", other devices reach it by DMA",
                false => "",
            };
            text += &format!(
                "    {kind} {} size {}{peers}\n",
                part["offset"].as_str()?,
                hex(&part["size"])
            );
        }
    }
    Some(text)
}

fn interrupts(interrupts: &Value) -> Option<String> {
    let mut text = format!("  interrupts by {}", interrupts["kind"].as_str()?);
    if let Some(gsi) = interrupts["pin_gsi"].as_u64() {
        text += &format!("; the pin is GSI {gsi}");
    }
    text.push('\n');
    for vector in interrupts["msi"].as_array()? {
        text += &self::vector("MSI", vector)?;
    }
    let msix = &interrupts["msix"];
    if !msix.is_object() {
        return Some(text);
    }
    let vectors = msix["vectors"].as_array()?;
    let flags = [("enabled", "enabled"), ("function_masked", "masked")];
    text += &format!(
        "  MSI-X {} vectors: {}\n",
        vectors.len(),
        words(msix, &flags)
    );
    // An entry that the guest has not written says nothing.
    let used = |v: &&Value| !v["message"].is_null() || !v["irqfd"].is_null();
    for vector in vectors.iter().filter(used) {
        text += &self::vector("vector", vector)?;
    }
    Some(text)
}

fn vector(what: &str, vector: &Value) -> Option<String> {
    let mut text = format!(
        "    {what} {}: {} = {}",
        vector["vector"].as_u64()?,
        vector["address"].as_str()?,
        vector["data"].as_str()?
    );
    let message = &vector["message"];
    if message.is_object() {
        let to = match message["logical"] == true {
            true => "logical",
            false => "APIC",
        };
        text += &format!(
            " ({} interrupt {} to {to} {})",
            message["delivery"].as_str()?,
            message["interrupt"].as_u64()?,
            message["destination"].as_u64()?
        );
    }
    if vector["masked"] == true {
        text += " masked";
    }
    let irqfd = &vector["irqfd"];
    if irqfd.is_object() {
        let state = words(irqfd, &[("assigned", "assigned"), ("pending", "pending")]);
        text += &format!(
            "; irqfd {} to GSI {}: {state}",
            irqfd["eventfd"].as_i64()?,
            irqfd["gsi"].as_u64()?
        );
    }
    Some(text + "\n")
}
