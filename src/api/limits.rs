//! The limits of a request.

/// The most bytes of the request line and the header fields.
pub const MAX_HEAD: usize = 8 << 10;
/// The most bytes of a body.
pub const MAX_BODY: usize = 64 << 10;
