//! Reads linux/kvm.h with x86's asm/kvm.h, linux/vfio.h and linux/iommufd.h, and writes their
//! calls, structures and constants as the table that `mini-vmm trace` decodes with:
//! src/trace/decode/table/headers.txt. The reader knows as much of C as these headers need. What it
//! does not know is an error, so that a newer header is not half read.

pub mod calls;
mod declared;
mod expression;
mod headers;
mod layout;
mod preprocess;
mod tokens;
mod types;
mod write;

use std::path::Path;

pub use headers::Headers;

/// The headers, in the order in which they are read: the second needs the first.
const HEADERS: [&str; 4] = [
    "x86_64-linux-gnu/asm/kvm.h",
    "linux/kvm.h",
    "linux/vfio.h",
    "linux/iommufd.h",
];

/// The table, from this crate's directory.
pub const TABLE: &str = "../../src/trace/decode/table/headers.txt";

/// Reads the headers below `include`, such as /usr/include.
///
/// # Errors
/// A header cannot be read, or has something that the reader does not know.
pub fn read(include: &Path) -> Result<Headers, String> {
    let mut headers = Headers::default();
    for name in HEADERS {
        let path = include.join(name);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let code = headers
            .macros
            .read(&text)
            .map_err(|error| format!("{name}: {error}"))?;
        types::read(&code, &mut headers.types, &headers.macros)
            .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(headers)
}

/// The text of the table. `version` is the version of the kernel that the headers are of.
///
/// # Errors
/// As [`read`], or a structure has no known layout.
pub fn table(include: &Path, version: &str) -> Result<String, String> {
    let headers = read(include)?;
    write::table(&headers.macros, &headers.types, version)
}
