//! Draws devices by their groups, from these lines of `mini-vmm host list --json`: `address`,
//! `group`, `class_name` and `driver` of each device, in this order.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The value of a line such as `"driver": "nvme",`, without quotes.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (name, value) = line.trim().trim_end_matches(',').split_once(": ")?;
    (name.trim_matches('"') == key).then_some(value.trim_matches('"'))
}

/// One line for each device, those of a group together.
///
/// # Errors
/// The data are no list of devices.
pub fn groups(data: &str) -> Result<String, String> {
    let lines: Vec<_> = data.lines().collect();
    let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for device in lines.chunks(4) {
        let wrong = || format!("{device:?} is no device");
        let [address, group, class, driver] = device else {
            return Err(wrong());
        };
        let address = value(address, "address").ok_or_else(wrong)?;
        let group = value(group, "group").and_then(|group| group.parse().ok());
        let class = value(class, "class_name").ok_or_else(wrong)?;
        let driver = value(driver, "driver").ok_or_else(wrong)?;
        let driver = if driver == "null" { "-" } else { driver };
        let line = format!("{address}  {class:<22} {driver}");
        groups
            .entry(group.ok_or_else(wrong)?)
            .or_default()
            .push(line);
    }
    let mut drawn = String::new();
    for (group, devices) in &groups {
        let last = devices.len().saturating_sub(1);
        for (index, device) in devices.iter().enumerate() {
            let head = match index {
                0 => format!("group {group:<3}"),
                _ => " ".repeat(9),
            };
            let branch = match index {
                0 if last == 0 => "──",
                0 => "┬─",
                index if index == last => "└─",
                _ => "├─",
            };
            let _ = writeln!(drawn, "{head} {branch} {device}");
        }
    }
    match drawn.is_empty() {
        true => Err("there is no device".into()),
        false => Ok(drawn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_a_group_stand_together() {
        let device = |address: &str, group: u64| {
            format!(
                "\"address\": \"{address}\",\n \"group\": {group},\n\"class_name\": \"x\",\n\
                 \"driver\": null,\n"
            )
        };
        let data = format!(
            "{}{}{}",
            device("0000:00:01.0", 2),
            device("0000:00:02.0", 1),
            device("0000:00:03.0", 2)
        );
        let drawn = groups(&data).unwrap();
        let starts: Vec<_> = drawn.lines().map(|line| &line[..9]).collect();
        assert_eq!(starts, ["group 1  ", "group 2  ", "         "]);
        assert!(drawn.contains("┬─ 0000:00:01.0") && drawn.contains("└─ 0000:00:03.0"));
        for wrong in [
            "",
            "{}",
            &data.replace("group", "set"),
            &data.replace("1,", "x,"),
        ] {
            assert!(groups(wrong).is_err(), "{wrong}");
        }
    }
}
