//! Where events go.

pub mod duration;
pub mod emitter;
pub mod errno_names;
pub mod fields;
pub mod files;
pub mod html;
pub mod json;
pub mod line;
pub mod perfetto;
pub mod text;
pub mod totals;
