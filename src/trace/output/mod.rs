//! Where events go.

pub mod duration;
pub mod emitter;
pub mod errno_names;
pub mod fields;
pub mod json;
pub mod text;
pub mod totals;
