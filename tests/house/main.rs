//! Tests of the source tree itself: what its documents and manifests promise is so.

mod source;
mod walks;
mod walls;
