//! The program as a whole.

use std::path::Path;
use std::process::Command;

use super::fill;
use super::text::Text;
use super::variants;
use crate::headers::Headers;

/// The names of all calls that the decoder knows.
pub fn names() -> Vec<&'static str> {
    let calls = trace::decode::calls::all();
    let mut names: Vec<&'static str> = calls.map(|(_, _, name)| name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The text of the program that makes each call.
///
/// # Errors
/// A structure has a type that is not known.
pub fn text(headers: &Headers) -> Result<String, String> {
    let layouts = headers.layouts()?;
    let mut text = Text::default();
    for line in &variants::all(&names()) {
        fill::case(&mut text, line, &layouts);
    }
    Ok(text.whole())
}

/// The text of a program that prints each byte of a structure that is neither padding nor in a
/// field, and how many structures it looks at.
///
/// # Errors
/// A structure has a type that is not known.
pub fn coverage(headers: &Headers) -> Result<(String, usize), String> {
    let layouts = headers.layouts()?;
    let mut text = Text::default();
    let mut types = 0;
    for (name, layout) in &layouts {
        if let Some(kind) = headers.kind(name) {
            fill::cover(&mut text, name, kind, layout, &layouts);
            types += 1;
        }
    }
    Ok((text.whole(), types))
}

/// Compiles a program against the headers. A static one runs where there are no libraries.
///
/// # Errors
/// The compiler is missing, or says something.
pub fn compile(text: &str, include: &Path, program: &Path, fixed: bool) -> Result<(), String> {
    let source = program.with_extension("c");
    let io = |error: std::io::Error| format!("{}: {error}", program.display());
    if let Some(dir) = program.parent() {
        std::fs::create_dir_all(dir).map_err(io)?;
    }
    std::fs::write(&source, text).map_err(io)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-w", "-O0", "-isystem"]);
    compiler.arg(include.join("x86_64-linux-gnu"));
    compiler.arg("-isystem").arg(include);
    if fixed {
        compiler.arg("-static");
    }
    let output = compiler.arg(&source).arg("-o").arg(program).output();
    let output = output.map_err(|error| format!("cc: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
