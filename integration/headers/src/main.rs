//! Writes src/trace/decode/table/headers.txt anew, from the headers of the newest kernel that
//! Debian's testing suite has, or from a directory: `cargo run -p headers [INCLUDE VERSION]`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lab::headers::KernelHeaders;

fn main() -> ExitCode {
    match run() {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, String> {
    let mut arguments = std::env::args().skip(1);
    let (include, version) = match (arguments.next(), arguments.next()) {
        (Some(include), Some(version)) => (PathBuf::from(include), version),
        (None, _) => {
            let newest = KernelHeaders::newest().map_err(|error| error.to_string())?;
            (newest.include, newest.version)
        }
        (Some(_), None) => return Err("name the headers' version too".to_owned()),
    };
    let table = headers::table(&include, &version)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(headers::TABLE);
    std::fs::write(&path, &table).map_err(|error| format!("write {}: {error}", path.display()))?;
    Ok(format!(
        "{} calls of Linux {version} are in {}",
        table
            .lines()
            .filter(|line| line.starts_with("call "))
            .count(),
        path.display()
    ))
}
