//! Chapter 4: a guest of mini-vmm that sends a text and reads the line status once for each sixteen
//! characters, which is what a UART's FIFO takes.

use std::path::Path;
use std::time::Duration;
use std::{env, fs, process};

use serde_json::Value;

use crate::check::assembled;

const WANTED: &str = "the guest waits for what it reads";
/// Line status reads for the text: one for each 16 characters, and one for the rest.
const READS: u64 = 3;
const LIMIT: Duration = Duration::from_secs(5);

/// Checks a guest by its text and by the exits in the statistics.
///
/// # Errors
/// What to look at next.
pub fn check(source: &Path) -> Result<(), String> {
    let program = assembled::assemble(source, "elf")?;
    let kernel = program.0.to_string_lossy();
    let report = env::temp_dir().join(format!("tour-stats-{}", process::id()));
    let stats = format!("--stats={}", report.display());
    let ended = assembled::run("mini-vmm", &["--kernel", &kernel, &stats], LIMIT);
    let text = fs::read_to_string(&report).unwrap_or_default();
    // A run that was killed has written none.
    let _ = fs::remove_file(&report);
    let output = ended.map_err(|why| {
        format!(
            "The guest {why}: `hlt` alone waits for an interrupt that does not come, so write \
             0x34 to port 0x600 first, which switches the machine off."
        )
    })?;
    if output.status != 0 {
        return Err(format!(
            "mini-vmm ended with status {}; its own words are the next step: {}",
            output.status,
            output
                .text
                .lines()
                .find(|line| line.contains("error"))
                .unwrap_or("none")
        ));
    }
    // After the guest's text mini-vmm says where its statistics are.
    let sent = output.text.split("mini-vmm: ").next().unwrap_or_default();
    if sent != WANTED {
        return Err(format!(
            "The guest sent \"{sent}\", and wanted is \"{WANTED}\": see that both loops end with \
             the text, and that the inner one does not skip a character."
        ));
    }
    let stats: Value = serde_json::from_str(&text).map_err(|e| format!("the statistics: {e}"))?;
    match status_reads(&stats) {
        READS => Ok(()),
        0 => Err(
            "The guest never read port 0x3fd: it has no exit left, but a real UART would \
                  have lost characters, so ask once for each sixteen."
                .into(),
        ),
        reads if reads < READS => Err(format!(
            "The guest read port 0x3fd {} for {} characters: a FIFO takes sixteen, so \
             ask again after the sixteenth.",
            if reads == 1 { "once" } else { "twice" },
            WANTED.len()
        )),
        reads => Err(format!(
            "The guest read port 0x3fd {reads} times, and each read is an exit: one answer is good \
             for sixteen characters, so send sixteen before you ask again."
        )),
    }
}

/// Exits for reads of the line status register.
fn status_reads(stats: &Value) -> u64 {
    let registers = stats["exits"]["registers"].as_array().into_iter().flatten();
    let reads = registers.filter(|register| {
        register["space"] == "port" && register["address"] == "0x3fd" && register["write"] == false
    });
    reads
        .filter_map(|register| register["count"].as_u64())
        .sum()
}
