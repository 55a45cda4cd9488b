//! Tests of the source tree itself: what its documents and manifests promise is so.

mod codes;
mod fuzz;
mod hidden_losses;
mod libraries;
mod metadata;
mod msrv;
mod named;
mod names;
mod ownership;
mod source;
mod tour;
mod waking;
mod walks;
mod walls;
mod words;
