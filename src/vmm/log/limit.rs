//! A limit for messages that a guest can cause.

use std::sync::atomic::{AtomicU64, Ordering};

/// Limits messages of one kind: allows the first few, and then fewer and fewer.
#[derive(Debug, Default)]
pub struct RateLimit(AtomicU64);

impl RateLimit {
    const FREE: u64 = 8;

    /// Whether this message may be written: the first eight messages, and then each message whose
    /// number is a power of two. So n messages take about log n lines.
    pub fn allow(&self) -> bool {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        n < Self::FREE || n.is_power_of_two()
    }
}

/// Logs a warning as `tracing::warn!` does, if the [`RateLimit`], the first argument, allows it.
/// For all warnings that a guest can repeat at will.
macro_rules! warn_limited {
    ($limit:expr, $($message:tt)+) => {
        if $limit.allow() {
            tracing::warn!($($message)+);
        }
    };
}
pub(crate) use warn_limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_by_the_logarithm() {
        let limit = RateLimit::default();
        let allowed = (0..1_000_000).filter(|_| limit.allow()).count();
        assert!((8..40).contains(&allowed), "{allowed}");
    }
}
