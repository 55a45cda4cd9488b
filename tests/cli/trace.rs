//! `mini-vmm trace`: what it shows of a guest is what `--stats` of the same run has counted, and
//! the traced program behaves as untraced.

mod behaviour;
mod files;
mod filter;
mod formats;
mod guests;
mod kernel;
mod page;
mod returns;
mod run;
mod transcripts;
mod witness;
