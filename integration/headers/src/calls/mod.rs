//! A C program that makes every call with a known value in every field.
//!
//! The program is compiled against the kernel's own headers. It fills the structures, says what it
//! has put where, and prints its memory; or it makes the calls. So offsets, sizes and numbers come
//! from the C compiler, and what is in unions, arrays and behind pointers from variants.txt, which
//! is written by hand.

pub mod compare;
mod fill;
pub mod output;
pub mod program;
mod text;
mod variants;
